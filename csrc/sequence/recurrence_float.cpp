// SPDX-License-Identifier: Apache-2.0
// Every cell in float.
#include "sequence/instantiate.h"

template std::unique_ptr<bptt::sequence::Recurrence<float>> bptt::sequence::make_recurrence(const std::string&, Index,
                                                                                            Index, Index, Index,
                                                                                            bptt::ProductMode);
