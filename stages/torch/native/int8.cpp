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

WIDE void add_rounded(const uint8_t *a, const uint8_t *b, uint8_t *into, int64_t count, float a_factor, float b_factor, float offset) {
  for (int64_t i = 0; i < count; ++i) {
    float sum = static_cast<float>(a[i]) * a_factor + static_cast<float>(b[i]) * b_factor + offset;
    sum = sum < 0.0F ? 0.0F : sum > 255.0F ? 255.0F : sum;
    into[i] = static_cast<uint8_t>(static_cast<int32_t>((sum + TO_INTEGER) - TO_INTEGER));
  }
}

// The sum of two u8 tensors of one shape, each `(byte - zero) * scale`.
at::Tensor add_u8(const at::Tensor &a, double a_scale, int64_t a_zero, const at::Tensor &b, double b_scale, int64_t b_zero, double scale, int64_t zero) {
  TORCH_CHECK(a.sizes() == b.sizes() && a.scalar_type() == at::kByte && b.scalar_type() == at::kByte, "a sum in 8 bits of ", a.sizes(), " and ", b.sizes());
  const auto format = a.suggest_memory_format();
  const auto left = a.contiguous(format), right = b.contiguous(format);
  auto sum = at::empty_like(left);
  const auto a_factor = static_cast<float>(a_scale / scale), b_factor = static_cast<float>(b_scale / scale);
  const auto offset = static_cast<float>(static_cast<double>(zero) - static_cast<double>(a_zero) * a_scale / scale - static_cast<double>(b_zero) * b_scale / scale);
  const auto *from_left = left.const_data_ptr<uint8_t>(), *from_right = right.const_data_ptr<uint8_t>();
  auto *into = sum.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, left.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    add_rounded(from_left + begin, from_right + begin, into + begin, end - begin, a_factor, b_factor, offset);
  });
  return sum;
}

} // namespace

void register_int8() {
  static torch::Library library(torch::Library::DEF, "spawn", std::nullopt, __FILE__, __LINE__);
  static const bool defined = [] {
    library.def("linear_int8(Tensor x, Tensor weight, Tensor scale, Tensor? bias) -> Tensor", &linear_int8);
    library.def("add_u8(Tensor a, float a_scale, int a_zero, Tensor b, float b_scale, int b_zero, float scale, int zero) -> Tensor", &add_u8);
    return true;
  }();
  static_cast<void>(defined);
}
