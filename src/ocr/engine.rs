//! Tesseract, through the raw interface of the `tesseract` crate: its safe one has no deadline.
//!
//! The only place with unsafe code. What makes it sound: an [`Engine`] owns its handle and is the
//! only one to use it; nothing that Tesseract lends is kept; what it gives is freed by its own
//! functions.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr::{NonNull, null};
use std::time::Duration;

use image::GrayImage;
use tesseract::plumbing::tesseract_sys as sys;

use super::layout::Page;

/// A warm engine for a set of languages.
pub struct Engine {
    handle: NonNull<sys::TessBaseAPI>,
}

/// Why an engine could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The language data are missing or broken.
    #[error("Tesseract has no usable data for {0}")]
    Languages(String),
    /// The deadline came before the end.
    #[error("the deadline came before the end")]
    DeadlineExceeded,
    /// Tesseract gave up.
    #[error("Tesseract gave up")]
    Failed,
}

impl Engine {
    /// An engine for languages such as `eng+rus`, with its data from a directory, or from where
    /// Tesseract looks by itself.
    pub fn new(tessdata_dir: Option<&Path>, languages: &str) -> Result<Self, EngineError> {
        let unusable = || EngineError::Languages(languages.to_string());
        let language = CString::new(languages).map_err(|_| unusable())?;
        let directory = tessdata_dir.map(|path| CString::new(path.as_os_str().as_encoded_bytes()));
        let directory = directory.transpose().map_err(|_| unusable())?;
        // SAFETY: takes nothing; the handle is ours until `drop` deletes it.
        let handle = unsafe { sys::TessBaseAPICreate() };
        let engine = Self { handle: NonNull::new(handle).ok_or(EngineError::Failed)? };
        let directory = directory.as_ref().map_or(null(), |directory| directory.as_ptr());
        // SAFETY: the handle is live; both strings end with a zero and outlive the call.
        let status = unsafe { sys::TessBaseAPIInit3(handle, directory, language.as_ptr()) };
        if status == 0 { Ok(engine) } else { Err(unusable()) }
    }

    /// The languages that are installed.
    pub fn languages(&self) -> Vec<String> {
        // SAFETY: the handle is live and initialised; the array is ours until it is deleted.
        let array = unsafe { sys::TessBaseAPIGetAvailableLanguagesAsVector(self.handle.as_ptr()) };
        let mut languages = Vec::new();
        if array.is_null() {
            return languages;
        }
        for index in 0.. {
            // SAFETY: the array ends with a null, which is where the loop ends.
            let name = unsafe { *array.add(index) };
            if name.is_null() {
                break;
            }
            // SAFETY: every entry before the null is a string that ends with a zero.
            languages.push(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
        }
        // SAFETY: the array came from Tesseract and is not used afterwards.
        unsafe { sys::TessDeleteTextArray(array) };
        languages.sort();
        languages
    }

    /// Reads a picture, or stops when the time is over.
    pub fn recognize(&mut self, image: &GrayImage, time: Duration) -> Result<Page, EngineError> {
        let handle = self.handle.as_ptr();
        let (Ok(width), Ok(height)) =
            (c_int::try_from(image.width()), c_int::try_from(image.height()))
        else {
            return Err(EngineError::Failed);
        };
        // SAFETY: the handle is live and initialised; the buffer holds height rows of width bytes
        // each, and Tesseract copies it before it returns.
        unsafe {
            sys::TessBaseAPISetImage(handle, image.as_raw().as_ptr(), width, height, 1, width)
        };
        let monitor = Monitor::new(time).ok_or(EngineError::Failed)?;
        // SAFETY: handle and monitor are live, and nobody else uses them meanwhile.
        let status = unsafe { sys::TessBaseAPIRecognize(handle, monitor.0.as_ptr()) };
        let read = match status {
            0 => Ok(Page { text: self.text()?, mean_confidence: self.mean_confidence() }),
            _ if monitor.is_over() => Err(EngineError::DeadlineExceeded),
            _ => Err(EngineError::Failed),
        };
        // SAFETY: the handle is live. Drops the picture and what was read of it, so that a waiting
        // worker holds neither memory nor somebody's text.
        unsafe { sys::TessBaseAPIClear(handle) };
        read
    }

    fn text(&self) -> Result<String, EngineError> {
        // SAFETY: the handle is live and has recognised; the text is ours until it is deleted.
        let text = unsafe { sys::TessBaseAPIGetUTF8Text(self.handle.as_ptr()) };
        take_text(text).ok_or(EngineError::Failed)
    }

    fn mean_confidence(&self) -> f32 {
        // SAFETY: the handle is live and has recognised.
        let percent = unsafe { sys::TessBaseAPIMeanTextConf(self.handle.as_ptr()) };
        percent.clamp(0, 100) as f32
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and nobody uses it afterwards.
        unsafe { sys::TessBaseAPIDelete(self.handle.as_ptr()) };
    }
}

/// Takes over a text that Tesseract gave.
fn take_text(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: Tesseract's texts end with a zero.
    let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: it came from Tesseract and is not used afterwards.
    unsafe { sys::TessDeleteText(text) };
    Some(copy)
}

/// Tells Tesseract when to stop.
struct Monitor(NonNull<sys::ETEXT_DESC>, std::time::Instant);

impl Monitor {
    fn new(time: Duration) -> Option<Self> {
        // SAFETY: takes nothing; the monitor is ours until `drop` deletes it.
        let monitor = NonNull::new(unsafe { sys::TessMonitorCreate() })?;
        // Zero would mean no deadline.
        let time_ms = time.as_millis().clamp(1, c_int::MAX as u128) as c_int;
        // SAFETY: the monitor is live.
        unsafe { sys::TessMonitorSetDeadlineMSecs(monitor.as_ptr(), time_ms) };
        let deadline = std::time::Instant::now() + Duration::from_millis(time_ms as u64);
        Some(Self(monitor, deadline))
    }

    fn is_over(&self) -> bool {
        std::time::Instant::now() >= self.1
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // SAFETY: the monitor is live, and nobody uses it afterwards.
        unsafe { sys::TessMonitorDelete(self.0.as_ptr()) };
    }
}

/// The version of Tesseract, as in `5.5.0`.
pub fn version() -> String {
    // SAFETY: a static string that ends with a zero.
    unsafe { CStr::from_ptr(sys::TessVersion()) }.to_string_lossy().into_owned()
}
