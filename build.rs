//! Hands the linker what an addon needs, where one is built.

fn main() {
    #[cfg(feature = "node")]
    napi_build::setup();
    #[cfg(not(feature = "node"))]
    if std::env::var_os("NAPI_TYPE_DEF_TMP_FOLDER").is_some() {
        panic!("an addon without the feature `node` would export nothing: use `npm run build`");
    }
}
