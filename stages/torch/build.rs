//! Builds the shim as a shared library, which [`mod@ffi`] carries within the program and opens with the first model: only then is
//! libtorch mapped, whose start takes longer than most commands.
//!
//! libtorch is the folder that `LIBTORCH` names, else that of the Python package.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 6] = ["convolution", "cuda_graph", "int8", "linear", "module", "static_int8"];

fn main() {
    println!("cargo::rerun-if-changed=native");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let libtorch = libtorch();
    let (include, lib) = (libtorch.join("include"), libtorch.join("lib"));
    // Another version in the same place.
    println!("cargo::rerun-if-changed={}", include.join("torch/headeronly/version.h").display());
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(false).pic(true);
    build.flag("-fvisibility=hidden").flag("-fvisibility-inlines-hidden");
    build.include(include.join("torch/csrc/api/include")).include(include);
    let objects = build.files(SOURCES.map(|name| format!("native/{name}.cpp"))).compile_intermediates();

    let library =
        PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("libspawn_torch.so");
    let mut link = build.get_compiler().to_command();
    link.args(["-shared", "-Wl,-z,defs,-z,now", "-Wl,--as-needed"]).args(objects);
    // Not `-ltorch`: it would bring libtorch_cuda along.
    link.arg(format!("-L{}", lib.display())).args(["-ltorch_cpu", "-lc10"]);
    link.arg(format!("-Wl,-rpath,{}", lib.display())).arg("-o").arg(&library);
    let status = link.status().expect("the compiler that made the objects runs");
    assert!(status.success(), "{link:?} failed");
    println!("cargo::rustc-env=SPAWN_TORCH_LIBRARY={}", library.display());
    println!("cargo::rustc-env=SPAWN_LIBTORCH={}", lib.display());
}

fn libtorch() -> PathBuf {
    let folder = match std::env::var_os("LIBTORCH") {
        Some(folder) => PathBuf::from(folder),
        None => of_python(),
    };
    let library = folder.join("lib").join("libtorch_cpu.so");
    assert!(library.exists(), "{} is not there: LIBTORCH is no folder of a libtorch", library.display());
    folder
}

fn of_python() -> PathBuf {
    let asked = Command::new("python3")
        .args(["-c", "import os, torch; print(os.path.dirname(torch.__file__))"])
        .output();
    let told = asked.expect("python3 is needed to find libtorch, or LIBTORCH");
    assert!(
        told.status.success(),
        "python3 has no torch: `. setup/env.sh` after `setup/install`, or set LIBTORCH\n{}",
        String::from_utf8_lossy(&told.stderr)
    );
    Path::new(String::from_utf8_lossy(&told.stdout).trim()).to_owned()
}
