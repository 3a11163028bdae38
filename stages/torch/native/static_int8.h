// Convolutions in 8-bit integers from end to end, with scales that were observed before.
#pragma once
#include <torch/csrc/jit/ir/ir.h>

#include <memory>

// Makes the module answer, instead of its outputs, one tensor of what its convolutions, but the first one, saw in a batch: for every value that they read or
// write, and every sum of two of those, its least and largest element (means over the batch) and each channel's mean. Answers how many
// elements that are; 0 if there is nothing to observe.
size_t observe_convolutions(std::shared_ptr<torch::jit::Graph> &graph);

// Replaces convolutions but the first one, and the sums between them, by ones on u8, given what was observed. Weights are rounded to 8 bits with a scale for each
// output, and what the rounding shifts a channel's mean by is taken off its bias. Answers how many were replaced.
size_t convolution_by_int8(std::shared_ptr<torch::jit::Graph> &graph, const at::Tensor &observed);
