use super::tiny::{self, Kindness, MANIFEST, chunk, folder, reference};
use crate::{Device, LoadError, TorchModel, Tuning};
use spawn_core::{ArrayData, FaultClass, Features, Inference, Model};

fn load(kindness: Kindness) -> TorchModel {
    TorchModel::load(&folder(kindness).path, &Device::Cpu).unwrap()
}

fn assert_answers(inferences: &[Inference], texts: &[Vec<i64>]) {
    assert_eq!(inferences.len(), texts.len());
    for (inference, ids) in inferences.iter().zip(texts) {
        let (embedding, scores) = reference(ids);
        assert!(inference.embedding.as_ref().unwrap().cosine(&embedding) > 0.999_999, "{ids:?}");
        let mut order = [0, 1, 2];
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let names: Vec<&str> = inference.labels.iter().map(|l| &*l.name).collect();
        assert_eq!(names, [["cold", "mild", "warm"][order[0]], ["cold", "mild", "warm"][order[1]]]);
        assert!((inference.labels[0].score - scores[order[0]]).abs() < 1e-5);
    }
}

#[test]
fn a_loaded_model_is_proved_and_answers_in_order() {
    let mut model = load(Kindness::Good);
    let report = model.golden();
    assert_eq!(report.count, 4);
    assert!(
        report.cosine_min > 0.999_999 && report.cosine_min <= 1.0 + 1e-9 && report.abs_max < 1e-5,
        "{report:?}"
    );
    assert!(model.load_seconds() > 0.0);
    let spec = model.spec();
    assert_eq!((&*spec.name, spec.dimension, spec.chunks_max, spec.padded_cost_max), ("tiny", 4, 3, 120));
    assert_eq!((&*spec.device, spec.version.len()), ("cpu", 64));

    let texts = vec![vec![1, 2, 3, 4, 5, 6], vec![49], vec![8, 9, 10]];
    let chunks: Vec<Features> = texts.iter().map(|ids| chunk(ids)).collect();
    assert_answers(&model.infer(&chunks.iter().collect::<Vec<_>>()).unwrap(), &texts);
    // A smaller call after a larger one: nothing of it is left in the buffers.
    assert_answers(&model.infer(&[&chunks[1]]).unwrap(), &texts[1..2]);
    assert!(model.infer(&[]).unwrap().is_empty());
    model.control().unwrap();
}

#[test]
fn the_ideas_that_can_be_switched_change_no_answer() {
    let folder = folder(Kindness::Good);
    let texts = vec![vec![3, 1, 2], vec![4, 5, 6, 7, 8]];
    for (optimise, length_step) in [(true, 1), (false, 16), (true, 16)] {
        let tuning = Tuning { optimise, length_step, ..Tuning::default() };
        let mut model = TorchModel::load_with(&folder.path, &Device::Cpu, tuning).unwrap();
        let chunks: Vec<Features> = texts.iter().map(|ids| chunk(ids)).collect();
        assert_answers(&model.infer(&chunks.iter().collect::<Vec<_>>()).unwrap(), &texts);
    }
}

#[test]
fn lengths_in_steps_are_tried_at_loading() {
    let folder = folder(Kindness::Good);
    let tried = |length_step| {
        let tuning = Tuning { length_step, ..Tuning::default() };
        TorchModel::load_with(&folder.path, &Device::Cpu, tuning).unwrap().lengths_tried()
    };
    // Preparation makes 40 tokens at most: 16, 32 and 48 with padding.
    assert_eq!((tried(16), tried(40), tried(1), tried(0)), (3, 1, 0, 0));
}

#[test]
fn a_model_that_makes_other_vectors_is_refused() {
    for (kindness, example, says) in [
        (Kindness::OtherWeight, 0, "the cosine of its embedding to the reference is 0.99"),
        (Kindness::PaddingLeaks, 0, "padded to 20"),
        (Kindness::NeighboursLeak, 0, "in a batch of 3"),
        (Kindness::NotNormalised, 0, "off by"),
        (Kindness::Logits, 0, "is no probability"),
    ] {
        let folder = folder(kindness);
        let error = TorchModel::load(&folder.path, &Device::Cpu).err().unwrap();
        let LoadError::Golden { path, example: found, ref detail } = error else { panic!("{error}") };
        assert_eq!((path, found), (folder.path.clone(), example), "{kindness:?}");
        assert!(detail.contains(says), "{kindness:?}: {detail}");
    }
}

#[test]
fn a_model_without_its_proof_or_its_parts_is_refused() {
    for (file, content, says) in [
        ("golden/golden.safetensors", None, "golden.safetensors: is missing"),
        ("golden/golden.safetensors", Some("junk"), "golden.safetensors"),
        ("model.pt", None, "model.pt: libtorch cannot load it"),
        ("model.pt", Some("junk"), "model.pt: libtorch cannot load it"),
        ("labels.txt", None, "labels.txt"),
        ("labels.txt", Some("a\n\nb\n"), "labels.txt: line 2 is empty"),
        ("labels.txt", Some("a\nb\n"), "3 scores for the 2 names in labels.txt"),
    ] {
        let folder = folder(Kindness::Good);
        match content {
            None => std::fs::remove_file(folder.path.join(file)).unwrap(),
            Some(content) => std::fs::write(folder.path.join(file), content).unwrap(),
        }
        let error = TorchModel::load(&folder.path, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(says), "{file}: {error}");
    }
}

#[test]
fn golden_examples_are_counted_in_both_places() {
    for (count, says) in
        [("count = 5", "there is no `in.4.ids`"), ("count = 3", "`in.3.ids` belongs to none")]
    {
        let folder = folder(Kindness::Good);
        std::fs::write(folder.path.join("model.toml"), MANIFEST.replace("count = 4", count)).unwrap();
        let error = TorchModel::load(&folder.path, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_chunk_that_the_model_cannot_take_fails_the_call_and_nothing_else() {
    let mut model = load(Kindness::Good);
    let good = chunk(&[1, 2]);
    let mut renamed = good.clone();
    renamed.arrays[1].name = "other";
    let mut retyped = good.clone();
    retyped.arrays[0].data = ArrayData::F32(vec![1.0, 2.0]);
    let mut reshaped = good.clone();
    reshaped.arrays[0].shape = vec![2, 1];
    let mut short = good.clone();
    short.arrays[0].data = ArrayData::I64(vec![1]);
    let unknown_token = chunk(&[1, tiny::TOKENS as i64]);
    for (bad, says) in [
        (renamed, "the model wants `mask` at place 1"),
        (retyped, "number type"),
        (reshaped, "the model wants [-1]"),
        (short, "1 elements in the shape [2]"),
        (unknown_token, "index out of range"),
    ] {
        let fault = model.infer(&[&good, &bad]).unwrap_err();
        assert_eq!((fault.class, fault.domain), (FaultClass::Batch, "model"), "{fault}");
        assert!(fault.detail.contains(says), "{fault}");
        model.control().unwrap();
        assert_answers(&model.infer(&[&good]).unwrap(), &[vec![1, 2]]);
    }
    let fault = model.infer(&[&good; 4]).unwrap_err();
    assert!(fault.detail.contains("at most 3"), "{fault}");
}

#[test]
fn a_vector_that_is_not_finite_is_one_chunks_fault() {
    let mut model = load(Kindness::NotFinite);
    assert!(model.infer(&[&chunk(&[1]), &chunk(&[2, 3])]).is_ok());
    let fault = model.infer(&[&chunk(&[1]), &chunk(&[7])]).unwrap_err();
    assert_eq!(fault.class, FaultClass::Batch);
    assert!(fault.detail.contains("element 0 is"), "{fault}");
}

#[test]
fn lack_of_memory_asks_for_less() {
    let mut model = load(Kindness::Greedy);
    // 8 bytes for each pair of 20 million tokens: more than any address space.
    let fault = model.infer(&[&chunk(&vec![1; 20_000_000])]).unwrap_err();
    assert_eq!(fault.class, FaultClass::Resource, "{fault}");
    model.control().unwrap();
}

#[test]
fn a_model_that_changed_its_mind_is_no_longer_healthy() {
    let mut model = load(Kindness::Good);
    std::sync::Arc::get_mut(&mut model.golden).expect("not shared")[0].embedding[0] += 1.0;
    let fault = model.control().unwrap_err();
    assert_eq!(fault.class, FaultClass::Systemic);
    assert!(fault.detail.contains("tiny: its first golden example fails"), "{fault}");
}

#[test]
fn what_libtorch_says_decides_the_class() {
    for (message, class) in [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", FaultClass::Resource),
        ("CUDA error: out of memory", FaultClass::Resource),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes", FaultClass::Resource),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", FaultClass::Resource),
        ("out of memory (std::bad_alloc)", FaultClass::Resource),
        ("CUDA error: an illegal memory access was encountered", FaultClass::Systemic),
        ("CUDA error: device-side assert triggered", FaultClass::Systemic),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", FaultClass::Systemic),
        ("The size of tensor a (3) must match the size of tensor b (4)", FaultClass::Batch),
        ("index out of range in self", FaultClass::Batch),
    ] {
        assert_eq!(crate::fault::of_call(message).class, class, "{message}");
    }
    let long = format!("{}the cause", "trace ".repeat(1000));
    let fault = crate::fault::of_call(&long);
    assert!(fault.detail.ends_with("the cause") && fault.detail.len() <= 1000);
}
