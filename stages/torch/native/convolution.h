// Convolutions on the CPU with what lies around them in one operation.
#pragma once
#include <torch/csrc/jit/ir/ir.h>

#include <memory>

// Replaces each convolution over pictures with constant f32 weights by one oneDNN operation with packed weights. It takes in zeros that
// were padded before it and a `relu` or `hardtanh` behind it, each of which reads and writes all pixels once more. Answers how many
// were replaced. With a 16-bit `dtype` input, weights and output have it.
size_t convolution_by_onednn(std::shared_ptr<torch::jit::Graph> &graph, at::ScalarType dtype);
