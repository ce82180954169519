/* What a connection moves, as it is or through TLS. */
#include "http/server_int.h"

#include <errno.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FILE_BYTES_PER_TURN = 4 << 20 };

static ssize_t plain_result(struct connection *connection, ssize_t moved, uint32_t direction)
{
    if (moved >= 0)
        return moved;
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        return WIRE_BROKEN;
    connection->blocked_on = direction;
    return WIRE_WAIT;
}

static ssize_t tls_result(struct connection *connection, ssize_t moved)
{
    if (moved >= 0)
        return moved;
    if (moved != TLS_WAIT_READ && moved != TLS_WAIT_WRITE)
        return WIRE_BROKEN;
    connection->blocked_on = moved == TLS_WAIT_READ ? EPOLLIN : EPOLLOUT;
    return WIRE_WAIT;
}

int wire_open(struct connection *connection)
{
    int result = connection->tls ? tls_wire_handshake(connection->tls) : 1;

    if (result != TLS_PLAIN_HTTP)
        return (int)tls_result(connection, result);
    tls_wire_free(connection->tls); /* what is said from here on is said plainly */
    connection->tls = NULL;
    return WIRE_NOT_TLS;
}

ssize_t wire_read(struct connection *connection, void *at, size_t bytes)
{
    if (connection->tls)
        return tls_result(connection, tls_wire_read(connection->tls, at, bytes));
    return plain_result(connection, recv(connection->fd, at, bytes, 0), EPOLLIN);
}

ssize_t wire_write(struct connection *connection, const void *at, size_t bytes)
{
    if (connection->tls)
        return tls_result(connection, tls_wire_write(connection->tls, at, bytes));
    return plain_result(connection, send(connection->fd, at, bytes, MSG_NOSIGNAL), EPOLLOUT);
}

/* OpenSSL takes one record of 16 KiB a call. After a wait the same bytes are read from the file again and go to it a
 * second time, as it wants them. */
static ssize_t send_file_encrypted(struct connection *connection, int fd, uint64_t at, uint64_t bytes)
{
    const char *piece = connection->server->scratch;
    ssize_t got = pread(fd, connection->server->scratch, bytes < SCRATCH_BYTES ? bytes : SCRATCH_BYTES, (off_t)at);
    ssize_t sent = WIRE_BROKEN, total = 0;

    while (total < got && (sent = wire_write(connection, piece + total, (size_t)(got - total))) > 0)
        total += sent;
    return total > 0 ? total : sent;
}

ssize_t wire_send_file(struct connection *connection, int fd, uint64_t at, uint64_t bytes)
{
    off_t offset = (off_t)at;
    ssize_t sent;

    if (connection->tls)
        return send_file_encrypted(connection, fd, at, bytes);
    sent = sendfile(connection->fd, fd, &offset, bytes < FILE_BYTES_PER_TURN ? bytes : FILE_BYTES_PER_TURN);
    return sent == 0 ? WIRE_BROKEN : plain_result(connection, sent, EPOLLOUT); /* 0: the file has become shorter */
}

bool wire_has_pending(const struct connection *connection)
{
    return connection->tls && tls_wire_has_pending(connection->tls);
}

void wire_end_output(struct connection *connection)
{
    if (connection->tls)
        tls_wire_end(connection->tls);
    shutdown(connection->fd, SHUT_WR);
}
