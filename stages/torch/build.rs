//! Compiles the shim against the headers of the libtorch that `torch-sys` found, and tells this package's tests and examples where
//! its libraries lie (the rpath that `tch` sets does not reach them).

use std::path::PathBuf;

fn main() {
    let lib =
        std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names the folder of libtorch's libraries");
    // The headers lie beside the libraries, in the Python package as in the plain distribution.
    let include = PathBuf::from(&lib).parent().expect("a folder `lib` lies in something").join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .files(
            ["convolution", "cuda_graph", "int8", "linear", "module", "static_int8"]
                .map(|name| format!("native/{name}.cpp")),
        )
        .compile("spawn_torch_native");
    println!("cargo::rerun-if-changed=native");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}
