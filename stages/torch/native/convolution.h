// Convolutions on the CPU with what lies around them in one operation.
#pragma once
#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

// Rows before columns, as convolutions have it.
using Axes = std::vector<int64_t>;

// A convolution over pictures with constant f32 weights.
struct Convolution {
  torch::jit::Value *input;
  at::Tensor weight; // [outputs, inputs / groups, rows, columns]
  at::Tensor bias;   // [outputs], or undefined
  Axes stride, padding, dilation;
  int64_t groups;
};

// A `relu` or `hardtanh`, as oneDNN names it.
struct Activation {
  torch::jit::Node *node;
  std::string name;
  std::vector<double> bounds;
};

// What the node says, if all but its input is constant and the weights are plain f32 numbers on the CPU.
std::optional<Convolution> constant_convolution(const torch::jit::Node &node);

// Takes in zeros that were padded around its input. Where there are more of them at the end, zeros before the kernel can stand for the
// difference: only if `uneven`.
void take_padding(Convolution &convolution, bool uneven);

// The activation that is the only use of `value`.
std::optional<Activation> activation_after(const torch::jit::Value &value);

// Its bounds as oneDNN's operations take them.
torch::jit::Value *activation_bounds(torch::jit::Graph &graph, const std::optional<Activation> &activation);

// Replaces each of them by one oneDNN operation with packed weights, which does the padding before it and the activation behind it: each
// of those reads and writes all pixels once more. Answers how many were replaced. With a 16-bit `dtype` input, weights and output have it.
size_t convolution_by_onednn(std::shared_ptr<torch::jit::Graph> &graph, at::ScalarType dtype);
