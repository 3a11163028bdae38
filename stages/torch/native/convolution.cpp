#include "convolution.h"

#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <optional>
#include <string>
#include <vector>

namespace jit = torch::jit;

namespace {

std::optional<Axes> axes(const jit::Value *value) {
  auto constant = jit::toIValue(value);
  if (!constant || !constant->isIntList() || constant->toIntVector().size() != 2) {
    return std::nullopt;
  }
  return constant->toIntVector();
}

} // namespace

std::optional<Convolution> constant_convolution(const jit::Node &node) {
  const bool general = node.kind() == c10::aten::_convolution;
  if (!general && node.kind() != c10::aten::conv2d) {
    return std::nullopt;
  }
  auto weight = jit::toIValue(node.input(1)), bias = jit::toIValue(node.input(2));
  auto stride = axes(node.input(3)), padding = axes(node.input(4)), dilation = axes(node.input(5));
  auto groups = jit::toIValue(node.input(general ? 8 : 6));
  auto transposed = general ? jit::toIValue(node.input(6)) : std::optional(c10::IValue(false));
  if (!weight || !weight->isTensor() || !bias || !stride || !padding || !dilation || !groups || !transposed || transposed->toBool()) {
    return std::nullopt;
  }
  const auto &tensor = weight->toTensor();
  if (!tensor.device().is_cpu() || tensor.layout() != at::kStrided || tensor.scalar_type() != at::kFloat || tensor.dim() != 4) {
    return std::nullopt;
  }
  return Convolution{node.input(0), tensor.detach(), bias->isTensor() ? bias->toTensor().detach() : at::Tensor(),
                     *stride,       *padding,        *dilation, groups->toInt()};
}

void take_padding(Convolution &convolution, bool uneven) {
  auto *node = convolution.input->node();
  if (node->kind() != c10::aten::pad && node->kind() != c10::aten::constant_pad_nd) {
    return;
  }
  const bool general = node->kind() == c10::aten::pad;
  auto sides = jit::toIValue(node->input(1));
  auto mode = general ? jit::toIValue(node->input(2)) : std::optional(c10::IValue("constant"));
  auto value = jit::toIValue(node->input(general ? 3 : 2));
  if (!sides || !sides->isIntList() || sides->toIntVector().size() != 4 || !mode || mode->toStringRef() != "constant" || !value ||
      !(value->isNone() || (value->isScalar() && value->toScalar().toDouble() == 0.0))) {
    return;
  }
  const auto around = sides->toIntVector(); // left, right, top, bottom
  const Axes before = {around[2], around[0]}, after = {around[3], around[1]};
  Axes more(2);
  for (size_t axis : {0, 1}) {
    more[axis] = after[axis] - before[axis];
    if (before[axis] < 0 || more[axis] < 0 || (more[axis] > 0 && (!uneven || convolution.dilation[axis] != 1))) {
      return;
    }
  }
  for (size_t axis : {0, 1}) {
    convolution.padding[axis] += after[axis];
  }
  convolution.weight = at::constant_pad_nd(convolution.weight, {more[1], 0, more[0], 0});
  convolution.input = node->input(0);
}

std::optional<Activation> activation_after(const jit::Value &value) {
  if (value.uses().size() != 1) {
    return std::nullopt;
  }
  auto *user = value.uses()[0].user;
  if (user->kind() == c10::aten::relu || user->kind() == c10::aten::relu_) {
    return Activation{user, "relu", {}};
  }
  if (user->kind() != c10::aten::hardtanh && user->kind() != c10::aten::hardtanh_) {
    return std::nullopt;
  }
  auto least = jit::toIValue(user->input(1)), most = jit::toIValue(user->input(2));
  if (!least || !most) {
    return std::nullopt;
  }
  return Activation{user, "hardtanh", {least->toScalar().toDouble(), most->toScalar().toDouble()}};
}

jit::Value *activation_bounds(jit::Graph &graph, const std::optional<Activation> &activation) {
  std::vector<jit::Value *> bounds;
  for (double bound : activation ? activation->bounds : std::vector<double>()) {
    bounds.push_back(graph.insertConstant(bound));
  }
  return graph.insertNode(graph.createList(c10::OptionalType::create(c10::NumberType::get()), bounds))->output();
}

namespace {

at::Tensor packed(const Convolution &convolution, at::ScalarType dtype) {
  auto pack = c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_reorder_convolution_weight", "");
  jit::Stack stack = {convolution.weight.to(dtype), convolution.padding, convolution.stride, convolution.dilation, convolution.groups, c10::IValue()};
  pack.callBoxed(stack);
  return stack.back().toTensor();
}

void by_onednn(jit::Graph &graph, jit::Node &node, Convolution convolution, at::ScalarType dtype) {
  // Zeros before the kernel cost less than a copy of all pixels in f32, more in 16 bits.
  take_padding(convolution, dtype == at::kFloat);
  auto activation = activation_after(*node.output());
  auto *input = convolution.input;
  if (dtype != at::kFloat) {
    input = graph.insert(c10::aten::to, {input, static_cast<int64_t>(dtype)});
  }
  // An ordinary constant cannot hold a tensor without storage.
  auto *weight = graph.insertNode(graph.create(c10::prim::ConstantMKLDNNTensor));
  weight->t_(c10::attr::value, packed(convolution, dtype));
  auto *bias = graph.insertConstant(convolution.bias.defined() ? c10::IValue(convolution.bias.to(dtype)) : c10::IValue());
  auto *bounds = activation_bounds(graph, activation);
  auto *output = graph.insert(c10::Symbol::fromQualString("mkldnn::_convolution_pointwise"),
                              {input, weight->output(), bias, convolution.padding, convolution.stride, convolution.dilation, convolution.groups,
                               activation ? activation->name : "none", bounds, ""});
  (activation ? activation->node : &node)->output()->replaceAllUsesWith(output);
}

size_t visit(jit::Graph &graph, jit::Block &block, at::ScalarType dtype) {
  size_t count = 0;
  std::vector<jit::Node *> nodes(block.nodes().begin(), block.nodes().end());
  for (auto *node : nodes) {
    for (auto *inner : node->blocks()) {
      count += visit(graph, *inner, dtype);
    }
    if (auto convolution = constant_convolution(*node)) {
      jit::WithInsertPoint here(node);
      by_onednn(graph, *node, std::move(*convolution), dtype);
      ++count;
    }
  }
  return count;
}

} // namespace

size_t convolution_by_onednn(std::shared_ptr<jit::Graph> &graph, at::ScalarType dtype) {
  // A stride is a list that is built of constants.
  jit::ConstantPropagation(graph);
  auto count = visit(*graph, *graph->block(), dtype);
  // The old nodes, with nobody left to use them.
  jit::EliminateDeadCode(graph->block());
  return count;
}
