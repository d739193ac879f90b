//! What the emulator refuses, where CUDA would read garbage.

use flowtune_engine::kernels::{Arg, Emulated, Grid, Kernel, Launcher};

fn launch(name: &str, threads: u32, args: &[Arg]) -> String {
    let grid = Grid { blocks: 1, threads };
    // SAFETY: a launch that is refused reads nothing.
    unsafe { Emulated::new().launch(Kernel::new("optimizer", name, "f32"), grid, args) }.unwrap_err().to_string()
}

#[test]
fn launches_that_do_not_fit_their_kernel_are_refused() {
    let args = [Arg::Pointer(0), Arg::U64(0), Arg::F32(1.0)];
    assert_eq!(launch("shrink", 32, &args), "kernel shrink_f32: there is no such kernel");
    assert_eq!(launch("scale", 32, &args[..2]), "kernel scale_f32: the kernel has another number of parameters");
    let swapped = [args[0], args[2], args[1]];
    assert_eq!(launch("scale", 32, &swapped), "kernel scale_f32: the kernel has parameters of other kinds");
    assert_eq!(launch("scale", 33, &args), "kernel scale_f32: a block has 32 to 1024 threads, whole warps");
}
