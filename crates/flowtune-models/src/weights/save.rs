//! Writing safetensors files, and replacing any file without ever leaving half of one.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use flowtune_engine::{DType, Device, Tensor};
use half::{bf16, f16};
use serde::Serialize;

use crate::error::{Result, io_error};

/// Writes `path` through a temporary file in the same folder, synced and then renamed: a reader sees the old
/// file or the new one. The temporary file is gone when this fails.
///
/// # Errors
/// `IO`, naming `path`: no space, no permission, no such folder.
pub fn replace_file(path: impl AsRef<Path>, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    replace(path, write).map_err(io_error(path))
}

fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = builder().tempfile_in(folder)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    // The rename itself is in the folder's data.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".flowtune-").suffix(".tmp");
    // Temporary files are private by default; the file that stays should have the user's usual permissions.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Tensor { dtype: &'static str, shape: &'a [usize], data_offsets: [usize; 2] },
    Metadata(BTreeMap<&'a str, &'a str>),
}

/// Writes tensors to a safetensors file, atomically. The same tensors make the same bytes: larger element types
/// come first (so that each is aligned), then names in order.
///
/// # Errors
/// `IO`, naming `path`.
pub fn save_safetensors(
    path: impl AsRef<Path>,
    tensors: &[(String, Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, t)| (std::cmp::Reverse(t.dtype().size()), name.as_str()));
    replace_file(path, |out| {
        let header = header(&sorted, metadata.as_ref())?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        sorted.iter().try_for_each(|(_, tensor)| write_elements(out, tensor))
    })
}

fn header(tensors: &[&(String, Tensor)], metadata: Option<&HashMap<String, String>>) -> io::Result<Vec<u8>> {
    let mut entries = BTreeMap::new();
    if let Some(metadata) = metadata {
        let sorted = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        entries.insert("__metadata__", Entry::Metadata(sorted));
    }
    let mut start = 0;
    for (name, tensor) in tensors {
        let data_offsets = [start, start + tensor.bytes()];
        start = data_offsets[1];
        let dtype = dtype(tensor).ok_or_else(|| {
            let (kind, advice) = (tensor.dtype().name(), "with scales beside it; cast it to bfloat16 to write it");
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is {kind} {advice}"))
        })?;
        let entry = Entry::Tensor { dtype, shape: tensor.shape(), data_offsets };
        if entries.insert(name, entry).is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("two tensors are called {name}")));
        }
    }
    let mut header = serde_json::to_vec(&entries)?;
    // Spaces up to a multiple of eight keep the elements aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// The format's name of a tensor's type; none for fewer bits, whose scales the format has no place for.
fn dtype(tensor: &Tensor) -> Option<&'static str> {
    Some(match tensor.dtype() {
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::F32 => "F32",
        DType::F64 => "F64",
        DType::I64 => "I64",
        DType::I8 | DType::Nf4 => return None,
    })
}

/// Supported targets are little-endian, as the format is.
fn write_elements(out: &mut impl Write, tensor: &Tensor) -> io::Result<()> {
    let tensor = tensor.to_device(&Device::cpu()).map_err(io::Error::other)?;
    match tensor.dtype() {
        DType::BF16 => out.write_all(bytemuck::cast_slice(tensor.as_slice::<bf16>().map_err(io::Error::other)?)),
        DType::F16 => out.write_all(bytemuck::cast_slice(tensor.as_slice::<f16>().map_err(io::Error::other)?)),
        DType::F32 => out.write_all(bytemuck::cast_slice(tensor.as_slice::<f32>().map_err(io::Error::other)?)),
        DType::F64 => out.write_all(bytemuck::cast_slice(tensor.as_slice::<f64>().map_err(io::Error::other)?)),
        // Fewer bits have no header; they were refused there.
        DType::I64 | DType::I8 | DType::Nf4 => {
            out.write_all(bytemuck::cast_slice(tensor.as_slice::<i64>().map_err(io::Error::other)?))
        }
    }
}
