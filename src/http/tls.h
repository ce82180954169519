/* http/tls.h - TLS for the server's connections, by OpenSSL: versions 1.2 and 1.3, suites with forward secrecy and
 * authenticated encryption alone, no renegotiation, no compression, no early data.
 *
 * A `struct tls` is the certificate and the key. It may be loaded anew at any time: connections that are open keep what
 * they began with. The caller ignores SIGPIPE, because OpenSSL writes to sockets by itself.
 *
 * Each connection has a `struct tls_wire`, which this room's wire.c alone uses. Its calls never block. */
#pragma once

#include "base/err.h"

#include <stdint.h>
#include <sys/types.h>

struct tls;
struct tls_wire;

/* PEM files: the certificate with its chain, and its key, not encrypted. They are read at once. */
struct tls *tls_new(const char *certificate_path, const char *key_path, struct err *err);
/* Reads both files again. When they are not right, what was loaded before stays in use. */
bool tls_reload(struct tls *tls, struct err *err);
void tls_free(struct tls *tls); /* connections that are open keep what they need; NULL is fine */

/* What follows is 1 or the bytes moved, 0 at the end of input, or one of these. */
enum { TLS_WAIT_READ = -1, TLS_WAIT_WRITE = -2, TLS_BROKEN = -3, TLS_PLAIN_HTTP = -4 };

struct tls_wire *tls_wire_new(struct tls *tls, int fd); /* the fd stays the caller's */
/* Until it is 1. TLS_PLAIN_HTTP: the client began with a request that is not encrypted. */
int tls_wire_handshake(struct tls_wire *wire);
ssize_t tls_wire_read(struct tls_wire *wire, void *at, size_t bytes);
/* After TLS_WAIT_* the next call must offer the same bytes again, and may offer more behind them. */
ssize_t tls_wire_write(struct tls_wire *wire, const void *at, size_t bytes);
/* Bytes were decrypted that no read has taken: the descriptor alone would not tell. */
bool tls_wire_has_pending(const struct tls_wire *wire);
void tls_wire_end(struct tls_wire *wire); /* tells the client that nothing more comes */
void tls_wire_free(struct tls_wire *wire); /* NULL is fine */
