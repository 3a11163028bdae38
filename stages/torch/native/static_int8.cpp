#include "static_int8.h"
#include "convolution.h"
#include "int8.h"

#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

namespace jit = torch::jit;

namespace {

// A value `[batch, channels, rows, columns]` that is observed, and where in the tensor of observations: least, largest, a mean for each channel.
struct Observed {
  size_t at;
  int64_t channels;
};

// What is done in 8 bits, in the graph's order.
struct Step {
  jit::Node *node;
  std::optional<Convolution> convolution; // else a sum
  std::vector<Observed> inputs;
  Observed output;
};

struct Plan {
  std::vector<Step> steps;
  std::vector<jit::Value *> values;
  size_t elements = 0;
};

bool plain_sum(const jit::Node &node) {
  if (node.kind() != c10::aten::add && node.kind() != c10::aten::add_) {
    return false;
  }
  auto alpha = node.inputs().size() == 3 ? jit::toIValue(node.input(2)) : std::nullopt;
  return alpha && alpha->isScalar() && alpha->toScalar().toDouble() == 1.0;
}

Plan plan(jit::Graph &graph) {
  Plan plan;
  std::map<jit::Value *, Observed> known;
  auto observe = [&](jit::Value *value, int64_t channels) {
    auto [found, is_new] = known.try_emplace(value, Observed{plan.elements, channels});
    if (is_new) {
      plan.values.push_back(value);
      plan.elements += 2 + static_cast<size_t>(channels);
    }
    return found->second;
  };
  bool first = true;
  for (auto *node : graph.block()->nodes()) {
    if (auto convolution = constant_convolution(*node)) {
      // Surfaces of one colour make its rounding errors the same in all of their pixels, so that no later mean takes them out.
      if (std::exchange(first, false)) {
        continue;
      }
      take_padding(*convolution, true);
      auto activation = activation_after(*node->output());
      auto input = observe(convolution->input, convolution->weight.size(1) * convolution->groups);
      auto output = observe(activation ? activation->node->output() : node->output(), convolution->weight.size(0));
      plan.steps.push_back({node, std::move(convolution), {input}, output});
    } else if (plain_sum(*node)) {
      auto left = known.find(node->input(0)), right = known.find(node->input(1));
      if (left != known.end() && right != known.end() && left->second.channels == right->second.channels) {
        auto output = observe(node->output(), left->second.channels);
        plan.steps.push_back({node, std::nullopt, {left->second, right->second}, output});
      }
    }
  }
  return plan;
}

// `(byte - zero) * scale` is the number. Zero is always among them: it is what is padded with.
struct Scale {
  double scale;
  int64_t zero;
};

Scale scale_of(const Observed &value, const at::Tensor &observed) {
  const auto *seen = observed.const_data_ptr<float>() + value.at;
  const double least = std::min(seen[0], 0.0F), largest = std::max(seen[1], 0.0F);
  const double scale = std::max((largest - least) / 255.0, 1e-12);
  return {scale, std::clamp<int64_t>(std::llround(-least / scale), 0, 255)};
}

class Rewrite {
public:
  Rewrite(jit::Graph &graph, const at::Tensor &observed) : graph(graph), observed(observed) {}

  void convolution(const Step &step) {
    const auto &c = *step.convolution;
    const auto x = scale_of(step.inputs[0], observed), y = scale_of(step.output, observed);
    auto scale = c.weight.abs().amax({1, 2, 3}).div(127.0).clamp_min(1e-30);
    auto column = scale.view({-1, 1, 1, 1});
    auto rounded = c.weight.div(column).round().to(at::kChar);
    // What a channel's output is off by on average, as its inputs were observed.
    auto off = c.weight.sub(rounded.mul(column)).sum({2, 3});
    auto means = observed.narrow(0, static_cast<int64_t>(step.inputs[0].at) + 2, step.inputs[0].channels).view({c.groups, -1});
    auto bias = off.mul(means.repeat_interleave(c.weight.size(0) / c.groups, 0)).sum(1);
    bias = c.bias.defined() ? bias.add(c.bias) : bias;

    auto pack = c10::Dispatcher::singleton().findSchemaOrThrow("onednn::qconv_prepack", "");
    jit::Stack stack = {rounded, scale, x.scale, x.zero, c.stride, c.padding, c.dilation, c.groups, c10::IValue()};
    pack.callBoxed(stack);
    // An ordinary constant cannot hold a tensor without storage.
    auto *weight = graph.insertNode(graph.create(c10::prim::ConstantMKLDNNTensor));
    weight->t_(c10::attr::value, stack.back().toTensor());
    auto activation = activation_after(*step.node->output());
    auto *output = graph.insert(c10::Symbol::fromQualString("onednn::qconv2d_pointwise"),
                                {bytes(now(c.input), x), x.scale, x.zero, weight->output(), graph.insertConstant(scale),
                                 graph.insertConstant(at::zeros({c.weight.size(0)}, at::kInt)), graph.insertConstant(bias), c.stride, c.padding,
                                 c.dilation, c.groups, y.scale, y.zero, static_cast<int64_t>(at::kByte), activation ? activation->name : "none",
                                 activation_bounds(graph, activation), ""});
    becomes(activation ? activation->node->output() : step.node->output(), output, y);
  }

  void sum(const Step &step) {
    const auto a = scale_of(step.inputs[0], observed), b = scale_of(step.inputs[1], observed), y = scale_of(step.output, observed);
    auto *output = graph.insert(c10::Symbol::fromQualString("spawn::add_u8"),
                                {bytes(step.node->input(0), a), a.scale, a.zero, bytes(step.node->input(1), b), b.scale, b.zero, y.scale, y.zero});
    becomes(step.node->output(), output, y);
  }

private:
  jit::Value *now(jit::Value *planned) {
    auto found = replaced.find(planned);
    return found == replaced.end() ? planned : found->second;
  }

  jit::Value *bytes(jit::Value *value, const Scale &scale) {
    auto &found = known[value];
    if (found == nullptr) {
      auto *quantised = graph.insert(c10::Symbol::fromQualString("aten::quantize_per_tensor"),
                                     {value, scale.scale, scale.zero, static_cast<int64_t>(at::kQUInt8)});
      found = graph.insert(c10::Symbol::fromQualString("aten::int_repr"), {quantised});
    }
    return found;
  }

  // Whoever wants numbers gets them of the bytes; where all want bytes this is dead code.
  void becomes(jit::Value *old, jit::Value *output, const Scale &scale) {
    auto *wide = graph.insert(c10::aten::to, {output, static_cast<int64_t>(at::kFloat)});
    auto *numbers = graph.insert(c10::aten::mul, {graph.insert(c10::aten::sub, {wide, scale.zero}), scale.scale});
    old->replaceAllUsesWith(numbers);
    replaced[old] = numbers;
    known[numbers] = output;
  }

  jit::Graph &graph;
  const at::Tensor &observed;
  std::map<jit::Value *, jit::Value *> known;    // numbers -> their bytes
  std::map<jit::Value *, jit::Value *> replaced; // as planned -> as they are now
};

} // namespace

size_t observe_convolutions(std::shared_ptr<jit::Graph> &graph) {
  jit::ConstantPropagation(graph);
  auto found = plan(*graph);
  if (found.values.empty()) {
    return 0;
  }
  jit::WithInsertPoint here(graph->return_node());
  const Axes all = {1, 2, 3}, pixels = {0, 2, 3}, flat = {-1}, first = {0};
  std::vector<jit::Value *> seen;
  for (auto *value : found.values) {
    for (auto kind : {c10::aten::amin, c10::aten::amax}) {
      auto *each = graph->insert(kind, {value, all, false});
      seen.push_back(graph->insert(c10::aten::mean, {each, first, true}));
    }
    seen.push_back(graph->insert(c10::aten::mean, {value, pixels, false}));
  }
  auto *list = graph->insertNode(graph->createList(c10::TensorType::get(), seen))->output();
  auto *answer = graph->insert(c10::aten::cat, {list, 0});
  while (!graph->outputs().empty()) {
    graph->eraseOutput(0);
  }
  graph->registerOutput(answer);
  return found.elements;
}

size_t convolution_by_int8(std::shared_ptr<jit::Graph> &graph, const at::Tensor &observed) {
  register_int8();
  jit::ConstantPropagation(graph);
  auto found = plan(*graph);
  if (observed.numel() != static_cast<int64_t>(found.elements)) {
    throw std::invalid_argument("what was observed does not belong to this module: " + std::to_string(observed.numel()) + " numbers, not " +
                                std::to_string(found.elements));
  }
  Rewrite rewrite(*graph, observed);
  for (const auto &step : found.steps) {
    jit::WithInsertPoint here(step.node);
    step.convolution ? rewrite.convolution(step) : rewrite.sum(step);
  }
  jit::EliminateDeadCode(graph->block());
  return found.steps.size();
}
