// Linear layers on the CPU by faster means than MKL.
#pragma once
#include <torch/csrc/jit/ir/ir.h>

// Replaces `aten::linear` with constant f32 weights, and a `gelu` behind it, by one oneDNN operation with packed weights. MKL uses
// only half of the vector width on processors that are not Intel's: there this is twice as fast, elsewhere as fast. Answers
// how many were replaced.
size_t linear_by_onednn(torch::jit::Graph &graph);

// Replaces them by `spawn::linear_int8` (see int8.cpp), the weights rounded to 8 bits with one scale for each output. Answers how many.
size_t linear_by_int8(torch::jit::Graph &graph);
