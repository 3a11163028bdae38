//! Holds the integration tests (`it/`), the benchmarks (`bench/`) and the evidence (`evidence/`); no code of its own.
