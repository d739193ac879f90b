//! Passes the linker what a Node addon needs on this platform, and the CUDA libraries where they are asked for.

/// What candle's CUDA build calls. The linker may be given stubs of these (scripts/cuda-toolchain.mjs), which define nothing
/// and would be dropped as unneeded: loading would then fail on a symbol instead of naming the library that is missing.
const CUDA: [&str; 6] = ["cuda", "cudart", "cublas", "cublasLt", "curand", "nvrtc"];

fn main() {
    napi_build::setup();
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some()
        && std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux")
    {
        println!("cargo::rustc-link-arg-cdylib=-Wl,--no-as-needed");
        // Where NVIDIA's installer puts them, which the loader need not know.
        println!("cargo::rustc-link-arg-cdylib=-Wl,-rpath,$ORIGIN:/usr/local/cuda/lib64");
        CUDA.iter().for_each(|library| println!("cargo::rustc-link-arg-cdylib=-l{library}"));
    }
}
