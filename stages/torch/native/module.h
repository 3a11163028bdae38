// TorchScript modules for Rust: this library is opened with the first model, and libtorch with it.
//
// A C interface, so that no C++ type and no exception crosses: every call that can fail returns something empty and leaves a
// message, to be given back by `message_free`.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {

struct spawn_module;
struct spawn_outputs;

// One input of a call: a view of row-major host memory that outlives the call.
struct spawn_input {
  const void *data;
  const int64_t *shape;
  size_t axes;
  int32_t dtype; // 0 = u8, 1 = f32, 2 = i64
};

// One output: row-major f32 in host memory, valid until its `spawn_outputs` is freed.
struct spawn_output {
  const float *data;
  const int64_t *shape;
  size_t axes;
};

// How a module is made ready. Profiling is a property of the whole process.
struct spawn_options {
  int32_t cuda; // device index, or -1 for the CPU
  bool freeze;
  bool onednn;
  int32_t dtype; // 0 = f32, 1 = int8, 2 = bf16, 3 = f16
  bool optimise;
  bool profiling;
  bool cuda_graphs;      // on a GPU: record the calls of a shape once and launch them as a whole
  bool observe;          // answer what the convolutions see, instead of the outputs; see `static_int8.h`
  const float *observed; // with dtype 1: what was seen, for convolutions in int8; or null
  size_t observed_count;
};

// All that the library has; `src/ffi.rs` says the same line by line.
struct spawn_functions {
  spawn_module *(*module_load)(const char *path, const spawn_options *options, char **message);
  // How many layers run by something faster than the file had.
  size_t (*module_layers)(const spawn_module *module);
  // Bytes that libtorch holds for tensors on the module's GPU, now and at most so far; 0 on the CPU.
  void (*module_device_bytes)(const spawn_module *module, int64_t *now, int64_t *most);
  // Gives what libtorch keeps for later calls on the module's GPU back to it; nothing on the CPU.
  void (*module_empty_cache)(const spawn_module *module);
  void (*module_free)(spawn_module *module);

  // Runs `forward` without autograd. The answer is a tensor or a tuple of tensors.
  spawn_outputs *(*module_forward)(spawn_module *module, const spawn_input *inputs, size_t count, char **message);
  size_t (*outputs_count)(const spawn_outputs *outputs);
  bool (*outputs_get)(const spawn_outputs *outputs, size_t index, spawn_output *output);
  void (*outputs_free)(spawn_outputs *outputs);

  void (*message_free)(char *message);

  // Version of libtorch. An error where another one was opened than the library was built for.
  const char *(*version)(char **message);
  // Whether the libraries that are open have CUDA graphs.
  bool (*has_cuda_graphs)();
  // How many GPUs libtorch can use with the libraries that are open.
  int32_t (*cuda_devices)(char **message);
  // Threads within an operation and between operations; answers how many the first are. The second can be set once in the life
  // of a process.
  int32_t (*set_threads)(int32_t intra, int32_t inter, char **message);
};

__attribute__((visibility("default"))) extern const spawn_functions spawn_torch;
}
