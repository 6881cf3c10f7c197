// SPDX-License-Identifier: Apache-2.0
// A cell's facts as values: what the loops, the layouts of weights and tapes, and Python (`core.cell_info`) need to
// know of a cell without its type.
#pragma once

#include <type_traits>

#include "cells/all.h"

namespace bptt::cells {

constexpr int kMaxGates = 4;

struct Info {
  const char* name;
  const char *gate_names, *state_names, *kept_names;  // separated by spaces; kept_names are of the first lines
  const Vector* vector_names;                         // two, of which those without a name do not count
  int gates, accumulators, states, vectors;           // G A S P
  int lines;                                          // values per row and unit on a tape
  int hidden_gates;                                   // gates whose hidden product is one with h
  bool vectors_are_bias;                              // the vectors are part of the bias, and absent without one
  bool bias_is_vectors;                               // the last G vectors are the bias
  bool multi_stage;                                   // several stages (cells/multi_stage.h)
  bool second;                                        // the last gate's product is not one with h, but
  int second_from, second_to;                         // of one line, to another
  bool heads;                                         // may have several heads: a unit then reads h of its own alone
  bool projects;                                      // h is projected,
  int projected;                           // from this line; the gradient of what comes out stands in the next
  int x_acc[kMaxGates], h_acc[kMaxGates];  // the accumulator of each gate, for the two products
};

/// Whether h is projected, and from which line.
template <class Cell, class = void>
struct Projection {
  static constexpr bool kProjects = false;
  static constexpr int kProjected = 0;
};
template <class Cell>
struct Projection<Cell, std::void_t<decltype(Cell::kProjects)>> {
  static constexpr bool kProjects = Cell::kProjects;
  static constexpr int kProjected = Cell::kM;
};

/// Whether units are grouped in heads.
template <class Cell, class = void>
struct Heads : std::false_type {};
template <class Cell>
struct Heads<Cell, std::void_t<decltype(Cell::kHeads)>> : std::bool_constant<Cell::kHeads> {};

/// What only cells of several stages state, with the values that hold for the others.
template <class Cell, class = void>
struct Traits : Projection<Cell> {
  static constexpr bool kMultiStage = false, kBiasIsVectors = false;
  static constexpr int kLines = Cell::K > Cell::A ? Cell::K : Cell::A;
  static constexpr Link kSecond = {};
};
template <class Cell>
struct Traits<Cell, std::void_t<decltype(Cell::kStages)>> : Projection<Cell> {
  /// The product that is not one with h.
  static constexpr Link second() {
    for (const Link& link : Cell::kBefore) {
      if (link.job == Job::kProduct) return link;
    }
    return {};
  }
  static constexpr bool kMultiStage = true, kBiasIsVectors = Cell::kBiasIsVectors;
  static constexpr int kLines = Cell::kLines;
  static constexpr Link kSecond = second();
};

/// The number of words in a text whose words are separated by single spaces.
constexpr int words(const char* text) {
  int n = *text != 0;
  for (; *text != 0; ++text) n += *text == ' ';
  return n;
}

template <class Cell>
constexpr Info make_info() {
  using Is = Traits<Cell>;
  constexpr bool second = Is::kSecond.job == Job::kProduct;
  static_assert(Cell::G <= kMaxGates, "Info has room for so many gates");
  static_assert(!(Heads<Cell>::value && Is::kMultiStage), "cells of several stages have no heads");
  static_assert(words(Cell::kGates) == Cell::G && words(Cell::kStates) == Cell::S, "each has a name");
  static_assert(words(Cell::kKept) <= Is::kLines, "only lines are kept");
  static_assert(Cell::kVectors[0].rows + Cell::kVectors[1].rows + (Is::kBiasIsVectors ? Cell::G : 0) == Cell::P,
                "each vector belongs to a parameter");
  Info info{Cell::kName,
            Cell::kGates,
            Cell::kStates,
            Cell::kKept,
            Cell::kVectors,
            Cell::G,
            Cell::A,
            Cell::S,
            Cell::P,
            Is::kLines,
            Cell::G - int(second),
            Cell::kVectorsAreBias,
            Is::kBiasIsVectors,
            Is::kMultiStage,
            second,
            Is::kSecond.from,
            Is::kSecond.to,
            Heads<Cell>::value,
            Is::kProjects,
            Is::kProjected,
            {},
            {}};
  for (int g = 0; g < Cell::G; ++g) {
    info.x_acc[g] = Cell::x_acc(g);
    info.h_acc[g] = Cell::h_acc(g);
  }
  return info;
}

/// The facts of one cell, which live as long as the program.
template <class Cell>
inline constexpr Info kInfo = make_info<Cell>();

}  // namespace bptt::cells
