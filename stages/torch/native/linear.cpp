#include "linear.h"
#include "int8.h"

#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <functional>
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

void by_onednn(jit::Graph &graph, jit::Node &linear, const at::Tensor &weight, at::ScalarType dtype) {
  auto *input = linear.input(0);
  auto *bias = linear.input(2);
  if (dtype != at::kFloat) {
    input = graph.insert(c10::aten::to, {input, static_cast<int64_t>(dtype)});
    auto constant = *jit::toIValue(bias);
    bias = constant.isTensor() ? graph.insertConstant(constant.toTensor().detach().to(dtype)) : bias;
  }
  // An ordinary constant cannot hold a tensor without storage.
  auto *constant = graph.insertNode(graph.create(c10::prim::ConstantMKLDNNTensor));
  constant->t_(c10::attr::value, weight.to(dtype).to_mkldnn());
  auto *gelu = gelu_after(*linear.output());
  auto *attribute = graph.insertConstant(gelu ? "gelu" : "none");
  auto *algorithm = gelu ? graph.insertConstant("none") : graph.insertConstant(c10::IValue());
  auto scalar = c10::OptionalType::create(c10::NumberType::get());
  auto *scalars = graph.insertNode(graph.createList(scalar, {}))->output();
  auto *output = graph.insert(
      c10::Symbol::fromQualString("mkldnn::_linear_pointwise"),
      {input, constant->output(), bias, attribute, scalars, algorithm});
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

using Replace = std::function<void(jit::Graph &, jit::Node &, const at::Tensor &)>;

size_t visit(jit::Graph &graph, jit::Block &block, const Replace &replace) {
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

size_t replace_all(jit::Graph &graph, const Replace &replace) {
  auto count = visit(graph, *graph.block(), replace);
  // The old nodes, with nobody left to use them.
  jit::EliminateDeadCode(graph.block());
  return count;
}

size_t store_weights(jit::Graph &graph, jit::Block &block, at::ScalarType dtype) {
  size_t count = 0;
  for (auto *node : block.nodes()) {
    for (auto *inner : node->blocks()) {
      count += store_weights(graph, *inner, dtype);
    }
    if (node->kind() != c10::aten::linear && node->kind() != c10::aten::_convolution && node->kind() != c10::aten::conv2d) {
      continue;
    }
    // Weights and bias.
    for (size_t i : {1, 2}) {
      auto value = jit::toIValue(node->input(i));
      if (value && value->isTensor() && value->toTensor().scalar_type() == at::kFloat) {
        jit::WithInsertPoint here(node);
        node->replaceInput(i, graph.insertConstant(value->toTensor().detach().to(dtype)));
        count += i == 1 ? 1 : 0;
      }
    }
  }
  return count;
}

} // namespace

bool computes_in(at::ScalarType dtype) {
  auto linear = c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "");
  auto input = at::zeros({1, 16}, dtype), weight = at::zeros({16, 16}, dtype);
  jit::Stack stack = {input, weight.to_mkldnn(), c10::IValue(), "none", c10::List<std::optional<at::Scalar>>(), c10::IValue()};
  try {
    linear.callBoxed(stack);
    return true;
  } catch (const std::exception &) {
    return false;
  }
}

size_t store_weights(jit::Graph &graph, at::ScalarType dtype) { return store_weights(graph, *graph.block(), dtype); }

size_t linear_by_onednn(jit::Graph &graph, at::ScalarType dtype) {
  return replace_all(graph, [dtype](jit::Graph &in, jit::Node &linear, const at::Tensor &weight) { by_onednn(in, linear, weight, dtype); });
}

size_t linear_by_int8(jit::Graph &graph) {
  register_int8();
  return replace_all(graph, by_int8);
}
