// Linear layers on the CPU by faster means than MKL.
#pragma once
#include <torch/csrc/jit/ir/ir.h>

// Replaces `aten::linear` with constant f32 weights, and a `gelu` behind it, by one oneDNN operation with packed weights. MKL uses
// only half of the vector width on processors that are not Intel's: there this is twice as fast, elsewhere as fast. Answers
// how many were replaced. With a 16-bit `dtype` input, weights and output have it.
size_t linear_by_onednn(torch::jit::Graph &graph, at::ScalarType dtype);

// Stores constant weights of linear layers and convolutions in `dtype`, for calls under autocast, which would convert them at each call. Answers
// how many layers have them.
size_t store_weights(torch::jit::Graph &graph, at::ScalarType dtype);

// Replaces them by `spawn::linear_int8` (see int8.cpp), the weights rounded to 8 bits with one scale for each output. Answers how many.
size_t linear_by_int8(torch::jit::Graph &graph);

// Whether this processor has what linear layers in `dtype` need.
bool computes_in(at::ScalarType dtype);
