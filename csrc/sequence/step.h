// SPDX-License-Identifier: Apache-2.0
// One time step as the loops hand it to a cell's kernel: views of what it reads and writes, and the table of a cell's
// kernels. Here the loops, which know no cell, meet the code that is compiled for each cell.
//   R  width of h (H but for a projected one)     L  lines of the cell, see cells/info.h     P  vectors
#pragma once

#include <cassert>

#include "core/gemm/blocks.h"
#include "core/gemm/product.h"
#include "core/threads/share.h"
#include "sequence/state_transition.h"
#include "sequence/weights.h"

namespace bptt::sequence {

/// Rows that a step of another mode takes at once.
constexpr int kModeRows = 8 * kTileRows;

/// What a step of another mode reads of its rows; each thread has its own.
struct StepRows {
  ModeRows x, h;                  // forward, [B,I] or the rows of a chunk, and [B,H]
  ModeRows dg;                    // backward, [B,G*H]
  NarrowRows narrow_x, narrow_h;  // in the place of x and h, where weights are narrow

  StepRows() = default;
  /// For forward steps.
  StepRows(ProductMode mode, Index x_rows, Index I, Index batch, Index H) {
    if (is_narrow(mode))
      narrow_x = {mode, x_rows, I}, narrow_h = {mode, batch, H};
    else
      x = {mode, x_rows, I}, h = {mode, batch, H};
  }
};

template <class T>
struct ForwardStep {
  const Weights<T>& w;
  const T* x = nullptr;               // [B,I]; null: the input product stands in gates
  const T* h = nullptr;               // [B,R], as the product sees it; without a transition the cell sees the same
  T* h1 = nullptr;                    // [B,R]
  OtherStates<const T> others0 = {};  // [S-1,B,Hp]; may be others1 themselves
  OtherStates<T> others1 = {};
  T* gates = nullptr;                              // [B,L,Hp], or null
  bool keep = false;                               // store what backward needs there
  const StateTransition<T>* transition = nullptr;  // null: h1 and others1 enter the next step as they are
  StepRows* mode_rows = nullptr;                   // null: products are chains of FMAs

  // The panels of the blocks from `first_block` on, where they are not in w (short_call.h).
  const T *x_panels = nullptr, *h_panels = nullptr;
  Index first_block = 0;
  const T* x_panel(Index block) const {
    return x_panels ? x_panels + (block - first_block) * w.x_panel() : w.x.data() + block * w.x_panel();
  }
  const T* h_panel(Index block) const {
    return h_panels ? h_panels + (block - first_block) * w.h_panel() : w.h.data() + block * w.h_panel();
  }

  // Of cells of several stages.
  T* scales = nullptr;  // [B,kScales]
  T* made = nullptr;    // the states that the cell makes [S,B,Hp], then a projected h [B,Hp]
  Index batch = 0;
};

template <class T>
struct BackwardStep {
  const Weights<T>& w;
  const T* dy = nullptr;   // [B,R]
  const T* dg1 = nullptr;  // gradients of the next step's pre-activations [B,L,Hp]; null at a row's last step
  T* gates = nullptr;      // kept values in, gradients of the pre-activations out [B,L,Hp]
  const T* h0 = nullptr;   // [B,h0_width], as the cell saw it: R or Hp
  const T* h1 = nullptr;   // [B,h1_width], as it left the cell
  Index h0_width = 0, h1_width = 0;
  OtherStates<const T> others0 = {}, others1 = {};  // [S-1,B,Hp]
  T* dstates = nullptr;   // gradients of the states without the share through Wh, in and out [S,B,Hp]
  T* dvectors = nullptr;  // sums by row [B,P,Hp]
  Index batch = 0;
  T* const* dsteps = nullptr;  // where the gradients of the states that leave the step go, [B,R], then [B,H] each
  const StateTransitionBack<T>* transition = nullptr;  // null: the states that leave are those that enter
  StepRows* mode_rows = nullptr;                       // null: products are chains of FMAs

  // Of cells of several stages.
  const T* h = nullptr;       // [B,R], as the product saw it
  const T* scales = nullptr;  // [B,kScales]
  T* dlines = nullptr;        // scratch [B,L,Hp]
  T* ds = nullptr;            // scratch [S+1,B,Hp]
};

/// The code of one cell. Rows are those of one thread, units its blocks of W units; only whether t is even counts.
/// Cells of several stages take all units and need neither.
template <class T>
struct CellKernels {
  const cells::Info& cell;
  /// The input products of `rows` rows for some blocks of units: a = bias + Wx x, into gates.
  void (*input_products)(const Weights<T>& w, const T* x, T* gates, Index rows, const Share& units,
                         StepRows* mode_rows);
  void (*forward)(const ForwardStep<T>& step, const RowBlocks& rows, const Share& units, Index t);
  void (*backward)(const BackwardStep<T>& step, const RowBlocks& rows, const Share& units, Index t);
};

/// A gate's gradient as a run of the k axis of a row's gradients: gate g lies at line `map[g]`.
template <class T>
Segments gate_segments(const Weights<T>& w, const int (&map)[cells::kMaxGates], int gates) {
  assert(gates <= cells::kMaxGates);
  Segments s{w.H, gates, {}};
  for (int g = 0; g < gates; ++g) s.offset[g] = map[g] * w.Hp;
  return s;
}

}  // namespace bptt::sequence
