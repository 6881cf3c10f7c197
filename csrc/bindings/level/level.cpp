// SPDX-License-Identifier: Apache-2.0
// The entry of one level's module, under the name by which Python looks for it. module.cpp is what it enters.
struct _object;

#if defined(_MSC_VER)
#define BPTT_EXPORT __declspec(dllexport)
#else
#define BPTT_EXPORT __attribute__((visibility("default")))
#endif
#define BPTT_JOIN_NOW(a, b) a##b
#define BPTT_JOIN(a, b) BPTT_JOIN_NOW(a, b)

extern "C" _object* PyInit__core();
extern "C" BPTT_EXPORT _object* BPTT_JOIN(PyInit_, BPTT_MODULE)();
extern "C" _object* BPTT_JOIN(PyInit_, BPTT_MODULE)() { return PyInit__core(); }
