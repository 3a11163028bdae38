// A linear layer and a sum in 8-bit integers.
#pragma once

// Makes `spawn::linear_int8` and `spawn::add_u8` known to TorchScript, once in a process.
void register_int8();
