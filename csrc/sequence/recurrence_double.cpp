// SPDX-License-Identifier: Apache-2.0
// Every cell in double.
#include "sequence/instantiate.h"

template std::unique_ptr<bptt::sequence::Recurrence<double>> bptt::sequence::make_recurrence(const std::string&, Index,
                                                                                             Index, Index, Index,
                                                                                             bptt::ProductMode);
