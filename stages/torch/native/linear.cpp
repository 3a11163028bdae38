#include "linear.h"
#include "int8.h"

#include <ATen/Functions.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <optional>
#include <vector>

namespace jit = torch::jit;

namespace {

// The weights of a linear layer `[outputs, inputs]`, if weights and bias are constants and the weights plain f32 numbers on the CPU.
std::optional<at::Tensor> constant_weight(const jit::Node &node) {
  auto weight = jit::toIValue(node.input(1));
  auto bias = jit::toIValue(node.input(2));
  if (!weight || !weight->isTensor() || !bias) {
    return std::nullopt;
  }
  const auto &tensor = weight->toTensor();
  if (!tensor.device().is_cpu() || tensor.layout() != at::kStrided || tensor.scalar_type() != at::kFloat || tensor.dim() != 2) {
    return std::nullopt;
  }
  return tensor.detach();
}

// The exact `gelu` that is the only use of `value`, or null.
jit::Node *gelu_after(const jit::Value &value) {
  if (value.uses().size() != 1) {
    return nullptr;
  }
  auto *user = value.uses()[0].user;
  if (user->kind() != c10::aten::gelu || user->inputs().size() != 2) {
    return nullptr;
  }
  auto approximate = jit::toIValue(user->input(1));
  return approximate && approximate->isString() && approximate->toStringRef() == "none" ? user : nullptr;
}

void by_onednn(jit::Graph &graph, jit::Node &linear, const at::Tensor &weight) {
  // An ordinary constant cannot hold a tensor without storage.
  auto *constant = graph.insertNode(graph.create(c10::prim::ConstantMKLDNNTensor));
  constant->t_(c10::attr::value, weight.to_mkldnn());
  auto *gelu = gelu_after(*linear.output());
  auto *attribute = graph.insertConstant(gelu ? "gelu" : "none");
  auto *algorithm = gelu ? graph.insertConstant("none") : graph.insertConstant(c10::IValue());
  auto scalar = c10::OptionalType::create(c10::NumberType::get());
  auto *scalars = graph.insertNode(graph.createList(scalar, {}))->output();
  auto *output = graph.insert(
      c10::Symbol::fromQualString("mkldnn::_linear_pointwise"),
      {linear.input(0), constant->output(), linear.input(2), attribute, scalars, algorithm});
  (gelu ? gelu : &linear)->output()->replaceAllUsesWith(output);
}

void by_int8(jit::Graph &graph, jit::Node &linear, const at::Tensor &weight) {
  // An output whose weights are all zero keeps them.
  auto scale = weight.abs().amax(1).div(127.0).clamp_min(1e-30);
  auto rounded = weight.div(scale.unsqueeze(1)).round().to(at::kChar);
  auto *output = graph.insert(c10::Symbol::fromQualString("spawn::linear_int8"),
                              {linear.input(0), graph.insertConstant(rounded), graph.insertConstant(scale), linear.input(2)});
  linear.output()->replaceAllUsesWith(output);
}

using Replace = void (*)(jit::Graph &, jit::Node &, const at::Tensor &);

size_t visit(jit::Graph &graph, jit::Block &block, Replace replace) {
  size_t count = 0;
  std::vector<jit::Node *> nodes(block.nodes().begin(), block.nodes().end());
  for (auto *node : nodes) {
    for (auto *inner : node->blocks()) {
      count += visit(graph, *inner, replace);
    }
    if (node->kind() == c10::aten::linear) {
      if (auto weight = constant_weight(*node)) {
        jit::WithInsertPoint here(node);
        replace(graph, *node, *weight);
        ++count;
      }
    }
  }
  return count;
}

size_t replace_all(jit::Graph &graph, Replace replace) {
  auto count = visit(graph, *graph.block(), replace);
  // The old nodes, with nobody left to use them.
  jit::EliminateDeadCode(graph.block());
  return count;
}

} // namespace

size_t linear_by_onednn(jit::Graph &graph) { return replace_all(graph, by_onednn); }

size_t linear_by_int8(jit::Graph &graph) {
  register_int8();
  return replace_all(graph, by_int8);
}
