//! What a connection that wraps another one does not do itself: the one inside does it.

/// Methods of `AsyncRead` or `AsyncWrite`, passed on to a field: `pass_on!(inner: poll_flush);`.
macro_rules! pass_on {
    ($field:ident: $($method:ident),+) => { $(pass_on!(@ $field $method);)+ };
    (@ $field:ident poll_read) => {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$field).poll_read(context, buffer)
        }
    };
    (@ $field:ident poll_write) => {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.$field).poll_write(context, bytes)
        }
    };
    (@ $field:ident poll_write_vectored) => {
        fn poll_write_vectored(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            parts: &[std::io::IoSlice<'_>],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.$field).poll_write_vectored(context, parts)
        }
    };
    (@ $field:ident is_write_vectored) => {
        fn is_write_vectored(&self) -> bool {
            self.$field.is_write_vectored()
        }
    };
    (@ $field:ident $ends:ident) => {
        fn $ends(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$field).$ends(context)
        }
    };
}

pub(super) use pass_on;
