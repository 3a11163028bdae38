//! libtorch's folder as run path: `tch` sets it for itself, not for what depends on it.

#[allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]
fn main() {
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
