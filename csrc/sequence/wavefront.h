// SPDX-License-Identifier: Apache-2.0
// Layers of a stack in parallel: while one core has steps 8 to 15 of the first layer, another has steps 0 to 7 of the
// second. A layer's steps are cut into pieces; a piece may start once the layer before has done the same piece.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "core/threads/interrupt.h"
#include "core/threads/pool.h"
#include "sequence/batch_sizes.h"

namespace bptt::sequence {

/// Pieces of a chunk: sixteen or more of all steps, since a layer begins one piece after the layer before, but of 8
/// rows or more, so that the products of a piece read each weight for several rows.
inline Index pieces_of_chunk(const BatchSizes& batch_sizes, Index steps, Index rows) {
  constexpr Index kLeast = 16, kRows = 8;
  return std::max<Index>(1, std::min(steps / std::max<Index>(1, batch_sizes.steps / kLeast), rows / kRows));
}

/// Where pieces begin, and the last one ends. They are parts of chunks, which sums over time keep.
inline std::vector<Index> pieces(const BatchSizes& batch_sizes) {
  std::vector<Index> cuts{batch_sizes.steps};
  for (Index end = batch_sizes.steps; end > 0;) {
    const Index begin = chunk_begin(batch_sizes, end);
    const Index n = pieces_of_chunk(batch_sizes, end - begin, batch_sizes.begin(end) - batch_sizes.begin(begin));
    for (Index i = n; i-- > 0;) cuts.push_back(begin + (end - begin) * i / n);
    end = begin;
  }
  std::reverse(cuts.begin(), cuts.end());
  return cuts;
}

/// How many they are.
inline Index count_pieces(const BatchSizes& batch_sizes) {
  if (batch_sizes.offset) return Index(pieces(batch_sizes).size()) - 1;
  const Index chunk = equal_chunk(batch_sizes), rest = batch_sizes.steps % chunk;
  const Index each = pieces_of_chunk(batch_sizes, chunk, chunk * batch_sizes.batch);
  return batch_sizes.steps / chunk * each +
         (rest > 0 ? pieces_of_chunk(batch_sizes, rest, rest * batch_sizes.batch) : 0);
}

/// The pieces of each layer that are done, and the layers that a thread is working on.
class Wavefront {
 public:
  Wavefront(int layers, int pieces) : layers_(layers), pieces_(pieces), all_(new Layer[std::size_t(layers)]) {}

  /// A layer whose next piece can be done, which is the caller's until `give`; -1: none now. `mine`, the caller's last,
  /// comes first, since this core's cache has its weights, unless another one has fallen behind it.
  int take(int mine) {
    int best = ready(mine) ? mine : -1;
    for (int k = 0; k < layers_; ++k) {
      if (ready(k) && (best < 0 || done(k) + (best == mine ? kAhead : 0) < done(best))) best = k;
    }
    if (best < 0) return -1;
    int next = 2 * done(best);  // even and unchanged since: no thread has it
    return ready(best) && all_[best].state.compare_exchange_strong(next, next + 1) ? best : -1;
  }
  /// The piece is done, for the next layer to see; the layer stays the caller's until `give`.
  void publish(int layer) { all_[layer].state += 2; }
  void give(int layer) { --all_[layer].state; }

  /// The next piece of a layer.
  int done(int layer) const { return all_[layer].state / 2; }
  bool finished() const { return done(layers_ - 1) == pieces_; }

 private:
  static constexpr int kAhead = 4;
  struct alignas(64) Layer {
    std::atomic<int> state{0};  // twice the pieces done, and one more while somebody has the layer
  };

  bool ready(int k) const {
    const int state = all_[k].state;
    return state % 2 == 0 && state / 2 < pieces_ && (k == 0 || done(k - 1) > state / 2);
  }

  const int layers_, pieces_;
  std::unique_ptr<Layer[]> all_;
};

/// Runs job(layer, piece) for all layers and pieces on `threads` threads; the first false, or an interrupt, cancels the
/// others. `rest(layer, piece)` runs after the piece is published; no layer waits for it.
template <class Job, class Rest>
bool run_wavefront(int layers, int pieces, int threads, Poll::Interrupted interrupted, std::atomic<bool>& stop,
                   const Job& job, const Rest& rest) {
  Wavefront front(layers, pieces);
  std::atomic<bool> complete{true};
  Pool::instance().run(std::min(threads, layers), [&](int thread, Barrier&) {
    Poll poll(interrupted, &stop);  // waiting threads poll too: only the calling thread can see Ctrl-C
    try {
      for (int mine = thread;;) {
        int layer = -1;
        spin_until([&] {
          if (poll()) complete = false;
          return (layer = front.take(mine)) >= 0 || front.finished() || !complete;
        });
        if (layer < 0 || !complete) return;
        const int piece = front.done(layer);
        if (!job(layer, piece)) complete = false;
        front.publish(layer);
        if (complete) rest(layer, piece);
        front.give(layer);
        mine = layer;
      }
    } catch (...) {
      complete = false;  // the others stop, the pool rethrows
      throw;
    }
  });
  return complete;
}

}  // namespace bptt::sequence
