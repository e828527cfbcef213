//! Notifications of a connection that listens.

use futures_util::stream::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{AsyncMessage, Connection, Error, Notification, Socket};
use tokio_stream::{Stream, StreamExt};

/// Returns the notifications on a channel for as long as the connection is open. Reading the
/// stream also drives the connection.
pub(crate) fn notifications<T>(
    mut connection: Connection<Socket, T>,
    channel: &'static str,
) -> impl Stream<Item = Result<Notification, Error>> + Unpin
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(move |context| connection.poll_message(context)).filter_map(
        move |message| match message {
            Ok(AsyncMessage::Notification(received)) => {
                (received.channel() == channel).then_some(Ok(received))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        },
    )
}
