//! ImageFolder: files in a folder a class.
//!
//! Image files are those named `.jpg`, `.jpeg` or `.png`, in any case, at any depth below their class; other
//! files, and files and folders whose name begins with a dot, do not count. Classes and files are in the order
//! of their names' bytes. Symbolic links are followed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dynet_net::Channels;
use rayon::prelude::*;

use crate::image::{Header, decode_file, read_header};
use crate::source::{Found, OpenOptions, Skipped, folder_name};
use crate::split::balanced;
use crate::{DataError, Dataset, DecodeLimits};

/// Folders within folders that are looked into; a link to a folder above itself ends there.
const DEPTH: usize = 16;

/// Header checks between two looks at whether more are needed.
const CHUNK: usize = 1024;

type Files = Vec<(PathBuf, u32)>;

/// Whether `folder` holds classes: in `train/`, or itself.
pub(crate) fn detect(folder: &Path) -> Result<bool, DataError> {
    let classes = class_folder(folder)?;
    for (_, path) in subfolders(&classes)? {
        let mut files = Vec::new();
        images_below(&path, DEPTH, &mut files)?;
        if !files.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the names of the files; and the files themselves with `skip_bad`, or else the headers of as many as it
/// takes to see that sizes differ and that there is colour.
pub(crate) fn open(folder: &Path, options: &OpenOptions) -> Result<Found, DataError> {
    let train_folder = class_folder(folder)?;
    let classes: Vec<String> = subfolders(&train_folder)?.into_iter().map(|(name, _)| name).collect();
    let train = part(&train_folder, &classes)?;
    let (mut val, mut test) = (None, None);
    if train_folder != folder {
        for (name, slot) in [("val", &mut val), ("test", &mut test)] {
            let path = folder.join(name);
            *slot = if path.is_dir() { Some(part(&path, &classes)?) } else { None };
        }
    }
    let mut view = View::default();
    let mut keep = |files: Files| -> Result<Dataset, DataError> {
        let files = view.look_at(files, &options.limits, options.skip_bad)?;
        Ok(Dataset::files(files, options.limits))
    };
    let mut train = keep(train)?;
    let val = val.map(&mut keep).transpose()?;
    let mut test = test.map(&mut keep).transpose()?;
    if train_folder == folder && options.draw {
        let (rest, drawn) = balanced(train.labels(), options.val_fraction, options.seed, 1);
        test = Some(train.subset(&drawn));
        train = train.subset(&rest);
    }
    if train.is_empty() {
        return Err(DataError::format(&train_folder, "images", "at least one that can be read", 0));
    }
    Ok(Found {
        name: folder_name(folder),
        classes,
        channels: if view.colour { Channels::Rgb } else { Channels::Gray },
        size: view.size.filter(|_| !view.sizes_differ),
        train,
        val,
        test,
        skipped: view.skipped,
    })
}

/// The image files in `folder` and below, by their names, sorted.
///
/// # Errors
/// What the system refused; folders nested too deep.
pub fn image_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    images_below(folder, DEPTH, &mut files)?;
    files.sort_unstable();
    Ok(files)
}

/// `train/` if it holds folders, else `folder` itself: `train` may be the name of a class.
fn class_folder(folder: &Path) -> Result<PathBuf, DataError> {
    let train = folder.join("train");
    let has_classes = train.is_dir() && !subfolders(&train)?.is_empty();
    Ok(if has_classes { train } else { folder.to_path_buf() })
}

/// The image files of one part, with the numbers of their classes.
fn part(folder: &Path, classes: &[String]) -> Result<Files, DataError> {
    let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let mut all = Vec::new();
    for (name, path) in subfolders(folder)? {
        let Some(&number) = numbers.get(name.as_str()) else {
            let expected = "a class of the training images";
            return Err(DataError::format(&path, "folder", expected, name));
        };
        let mut files = Vec::new();
        images_below(&path, DEPTH, &mut files)?;
        if files.is_empty() {
            let expected = "at least one .jpg, .jpeg or .png file in the class";
            return Err(DataError::format(&path, "images", expected, 0));
        }
        files.sort_unstable();
        all.extend(files.into_iter().map(|file| (file, number)));
    }
    Ok(all)
}

/// Name and path of everything in `folder` whose name does not begin with a dot, sorted by name.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io(folder))? {
        let entry = entry.map_err(DataError::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.push((name, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn subfolders(folder: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let mut found = entries(folder)?;
    found.retain(|(_, path)| path.is_dir());
    Ok(found)
}

fn images_below(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    if depth == 0 {
        return Err(DataError::format(folder, "depth", format!("at most {DEPTH} folders"), "more"));
    }
    for (_, path) in entries(folder)? {
        if path.is_dir() {
            images_below(&path, depth - 1, files)?;
        } else if has_image_name(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn has_image_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["jpg", "jpeg", "png"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// What has been seen of the images.
#[derive(Default)]
struct View {
    size: Option<[usize; 2]>,
    sizes_differ: bool,
    colour: bool,
    skipped: Vec<Skipped>,
}

impl View {
    /// The files that can be used: all of them, or with `decode` those that can be decoded.
    fn look_at(&mut self, files: Files, limits: &DecodeLimits, decode: bool) -> Result<Files, DataError> {
        let header = |(path, _): &(PathBuf, u32)| {
            if !decode {
                return read_header(path, limits);
            }
            let image = decode_file(path, limits)?;
            Ok(Header { size: [image.height, image.width], channels: image.channels })
        };
        let mut kept = Vec::with_capacity(files.len());
        let mut files = files.into_iter();
        while decode || !(self.sizes_differ && self.colour) {
            let chunk: Files = files.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            let headers: Vec<_> = chunk.par_iter().map(header).collect();
            for (file, header) in chunk.into_iter().zip(headers) {
                match header {
                    Ok(header) => {
                        self.note(header);
                        kept.push(file);
                    }
                    Err(error) if decode => {
                        self.skipped.push(Skipped { path: file.0, reason: error.to_string() });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        kept.extend(files);
        Ok(kept)
    }

    fn note(&mut self, header: Header) {
        self.sizes_differ |= *self.size.get_or_insert(header.size) != header.size;
        self.colour |= header.channels == Channels::Rgb;
    }
}
