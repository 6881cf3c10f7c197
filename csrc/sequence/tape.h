// SPDX-License-Identifier: Apache-2.0
// What a forward pass keeps so that one backward pass can follow, and the arrays a caller hands to either. Plain
// memory: no equation and no loop over time stands here.
#pragma once

#include <memory>

#include "core/arena.h"

namespace bptt::sequence {

constexpr int kMaxStates = 2;  // h, c

template <class T>
struct ForwardCall {
  Index steps, batch;
  const T* x;                    // [T,B,I]
  const T* initial[kMaxStates];  // [B,H] each
  T* y;                          // [T,B,H]
  T* final[kMaxStates];          // [B,H] each
};

template <class T>
struct BackwardCall {
  const T* dy;                  // [T,B,H]
  const T* dfinal[kMaxStates];  // [B,H] each
  T* dx;                        // [T,B,I]
  T* dinitial[kMaxStates];      // [B,H] each
  T* dweight_ih;                // [G*H,I]
  T* dweight_hh;                // [G*H,H]
  T* dbias;                     // [G*H] or null
  T* dvectors;                  // [P,H] or null
};

/// Rows are padded to Hp = whole registers. One buffer serves as pre-activations, then kept values, then gradients of
/// the pre-activations; that is why a tape is used once.
template <class T>
struct Tape {
  ForwardCall<T> call;                  // x, y and initial[0] are read again: their arrays must outlive the tape
  Buffer<T> gates;                      // [T,B,max(K,A),Hp]
  Buffer<T> states;                     // every state but h: [S-1,T+1,B,Hp]
  std::shared_ptr<const void> weights;  // those of the forward pass, whatever has been packed since

  Index bytes() const { return (gates.size() + states.size()) * Index(sizeof(T)); }
};

}  // namespace bptt::sequence
