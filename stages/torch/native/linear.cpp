#include "linear.h"

#include <ATen/Functions.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <optional>
#include <vector>

namespace jit = torch::jit;

namespace {

// The weights of a linear layer in oneDNN's own layout, if they are constants that it takes.
std::optional<at::Tensor> packed_weight(const jit::Node &node) {
  auto weight = jit::toIValue(node.input(1));
  auto bias = jit::toIValue(node.input(2));
  if (!weight || !weight->isTensor() || !bias) {
    return std::nullopt;
  }
  const auto &tensor = weight->toTensor();
  if (!tensor.device().is_cpu() || tensor.layout() != at::kStrided || tensor.scalar_type() != at::kFloat || tensor.dim() != 2) {
    return std::nullopt;
  }
  return tensor.detach().to_mkldnn();
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

void replace(jit::Graph &graph, jit::Node &linear, const at::Tensor &weight) {
  jit::WithInsertPoint here(&linear);
  // An ordinary constant cannot hold a tensor without storage.
  auto *constant = graph.insertNode(graph.create(c10::prim::ConstantMKLDNNTensor));
  constant->t_(c10::attr::value, weight);
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

size_t visit(jit::Graph &graph, jit::Block &block) {
  size_t count = 0;
  std::vector<jit::Node *> nodes(block.nodes().begin(), block.nodes().end());
  for (auto *node : nodes) {
    for (auto *inner : node->blocks()) {
      count += visit(graph, *inner);
    }
    if (node->kind() == c10::aten::linear) {
      if (auto weight = packed_weight(*node)) {
        replace(graph, *node, *weight);
        ++count;
      }
    }
  }
  return count;
}

} // namespace

size_t linear_by_onednn(jit::Graph &graph) {
  auto count = visit(graph, *graph.block());
  // The old nodes, with nobody left to use them.
  jit::EliminateDeadCode(graph.block());
  return count;
}
