// What tch lacks: freeze, optimize_for_inference and inference mode for TorchScript modules.
//
// A C interface, so that no C++ type and no exception crosses into Rust: every call that can fail returns null or false
// and leaves a message, to be given back by `spawn_message_free`.
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

spawn_module *spawn_module_load(const char *path, const spawn_options *options, char **message);
// How many layers run by something faster than the file had.
size_t spawn_module_layers(const spawn_module *module);
// Bytes that libtorch holds for tensors on the module's GPU, now and at most so far; 0 on the CPU.
void spawn_module_device_bytes(const spawn_module *module, int64_t *now, int64_t *most);
// Gives what libtorch keeps for later calls on the module's GPU back to it; nothing on the CPU.
void spawn_module_empty_cache(const spawn_module *module);
void spawn_module_free(spawn_module *module);

// Runs `forward` without autograd. The answer is a tensor or a tuple of tensors.
spawn_outputs *spawn_module_forward(spawn_module *module, const spawn_input *inputs, size_t count, char **message);
size_t spawn_outputs_count(const spawn_outputs *outputs);
bool spawn_outputs_get(const spawn_outputs *outputs, size_t index, spawn_output *output);
void spawn_outputs_free(spawn_outputs *outputs);

void spawn_message_free(char *message);

// Whether the libraries that are open have CUDA graphs.
bool spawn_has_cuda_graphs();

// Threads within an operation and between operations. The second can be set once in the life of a process.
bool spawn_set_threads(int32_t intra, int32_t inter, char **message);

// Version of libtorch.
const char *spawn_torch_version();
}
