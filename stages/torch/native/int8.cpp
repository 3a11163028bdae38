#include "int8.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cstdint>
#include <cstring>
#include <optional>

// GCC picks at run time what the processor has; without it the loops are compiled once.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDE
#endif

namespace {

// Rounds to the nearest integer, also where there is no instruction for it: beyond 2^23 a float has no fraction.
constexpr float TO_INTEGER = 12582912.0F;

// Rounds one row to -127..127 and answers its scale. Each row has a scale of its own: what is made of it does not depend on how large the
// other rows of a call are.
WIDE float quantise(const float *row, int64_t count, int8_t *into) {
  // The bits of positive floats are ordered as the floats are.
  uint32_t largest_bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, row + i, sizeof bits);
    bits &= 0x7fffffffU;
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  float largest;
  std::memcpy(&largest, &largest_bits, sizeof largest);
  const float factor = largest > 0.0F ? 127.0F / largest : 0.0F;
  for (int64_t i = 0; i < count; ++i) {
    const float rounded = (row[i] * factor + TO_INTEGER) - TO_INTEGER;
    into[i] = static_cast<int8_t>(static_cast<int32_t>(rounded));
  }
  return largest / 127.0F;
}

// Turns a row of sums into floats, in the same place.
WIDE void scale_back(int32_t *sums, int64_t count, float row_scale, const float *scale, const float *bias) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(sums[i]) * (row_scale * scale[i]) + bias[i];
    std::memcpy(sums + i, &value, sizeof value);
  }
}

// x `[.., inputs]` f32, weight `[outputs, inputs]` i8, scale `[outputs]` f32, bias `[outputs]` f32 or none -> `[.., outputs]` f32. The sums are exact,
// whatever the processor, the number of threads and the other rows.
at::Tensor linear_int8(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &scale, const std::optional<at::Tensor> &bias) {
  const auto inputs = weight.size(1), outputs = weight.size(0);
  const auto rows = x.reshape({-1, inputs}).contiguous();
  const auto count = rows.size(0);
  const auto offset = (bias ? *bias : at::zeros_like(scale)).contiguous();
  auto rounded = at::empty({count, inputs}, at::kChar);
  auto row_scale = at::empty({count}, at::kFloat);
  const auto *from = rows.const_data_ptr<float>();
  auto *into = rounded.mutable_data_ptr<int8_t>();
  auto *scales = row_scale.mutable_data_ptr<float>();
  at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      scales[row] = quantise(from + row * inputs, inputs, into + row * inputs);
    }
  });
  auto sums = at::_int_mm(rounded, weight.t());
  auto *values = sums.mutable_data_ptr<int32_t>();
  const auto *columns = scale.const_data_ptr<float>();
  const auto *offsets = offset.const_data_ptr<float>();
  at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      scale_back(values + row * outputs, outputs, scales[row], columns, offsets);
    }
  });
  auto sizes = x.sizes().vec();
  sizes.back() = outputs;
  return sums.view(at::kFloat).view(sizes);
}

} // namespace

void register_int8() {
  static torch::Library library(torch::Library::DEF, "spawn", std::nullopt, __FILE__, __LINE__);
  static const bool defined = [] {
    library.def("linear_int8(Tensor x, Tensor weight, Tensor scale, Tensor? bias) -> Tensor", &linear_int8);
    return true;
  }();
  static_cast<void>(defined);
}
