use crate::runtime::{
    cores_granted, has_cuda_graphs, init, library_folder, open_cuda, resolve, tune_malloc, version,
};
use crate::{Device, Threads};

#[test]
fn devices_are_read_and_written() {
    for (text, device) in [
        ("auto", Device::Auto),
        ("cpu", Device::Cpu),
        ("cuda", Device::Cuda(0)),
        ("cuda:0", Device::Cuda(0)),
        ("cuda:3", Device::Cuda(3)),
    ] {
        assert_eq!(text.parse::<Device>().unwrap(), device);
        assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
    }
    for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
        assert!(text.parse::<Device>().unwrap_err().to_string().contains("cuda:N"), "{text}");
    }
}

#[test]
fn a_device_is_there_or_the_error_says_what_to_use() {
    assert_eq!(resolve(&Device::Cpu).unwrap(), Device::Cpu);
    let auto = resolve(&Device::Auto).unwrap();
    assert!(matches!(auto, Device::Cpu | Device::Cuda(0)));
    // No machine has this one.
    let error = resolve(&Device::Cuda(200)).unwrap_err().to_string();
    assert!(error.contains("cuda:200") && error.contains("use the device `cpu`"), "{error}");
}

#[test]
fn graphs_are_found_in_the_library_that_is_opened_at_run_time() {
    // Without a GPU it can be opened all the same; a libtorch for the CPU has none.
    if open_cuda().is_ok() {
        assert!(has_cuda_graphs(), "a function of at::cuda::CUDAGraph has another name in this libtorch");
    }
}

#[test]
fn threads_are_set_once_and_malloc_takes_its_settings() {
    assert!(cores_granted() >= 1);
    assert_eq!(init(Threads { intra_op: 1 }).unwrap(), 1);
    assert_eq!(init(Threads { intra_op: 2 }).unwrap(), 1);
    assert!(tune_malloc() || !cfg!(target_env = "gnu"));
}

#[test]
fn the_library_that_runs_is_known() {
    assert!(version().unwrap().starts_with("2."), "{}", version().unwrap());
    assert!(library_folder().unwrap().join("libtorch_cpu.so").exists());
}
