#include "http/tls.h"

#include "base/arena.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

/* For TLS 1.2; those of 1.3 are all good. */
#define SUITES "ECDHE+AESGCM:ECDHE+CHACHA20"
/* Without the finite fields, whose largest costs a thousand times what X25519 does, at the client's choice. */
#define GROUPS "X25519:P-256:P-384"

struct tls {
    SSL_CTX *context;
    char *certificate_path, *key_path;
};

struct tls_wire {
    SSL *ssl;
    bool is_broken; /* no farewell may be sent */
};

/* HTTP/1.1 when the client offers it; one that offers only others hears nothing and gets HTTP/1.1. */
static int choose_protocol(SSL *ssl, const unsigned char **chosen, unsigned char *chosen_len,
                           const unsigned char *offered, unsigned offered_len, void *context)
{
    static const unsigned char ours[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
    unsigned char *found;
    int status = SSL_select_next_proto(&found, chosen_len, ours, sizeof ours, offered, offered_len);

    *chosen = found;
    return status == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static int refuse_pass_phrase(char *buf, int size, int is_writing, void *context)
{
    return -1; /* a server has nobody to ask */
}

static bool fail(struct err *err, const char *path)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = ERR_reason_error_string(code);

    err_set(err, ERR_INPUT, "cannot use %s for TLS: %s", path,
            reason                       ? reason
            : ERR_SYSTEM_ERROR(code)     ? strerror(ERR_GET_REASON(code))
                                         : "it is not what it should be");
    ERR_clear_error();
    return false;
}

static void set_rules(SSL_CTX *context)
{
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(context, SUITES);
    SSL_CTX_set1_groups_list(context, GROUPS);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                     SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); /* tickets do without */
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
    SSL_CTX_set_default_passwd_cb(context, refuse_pass_phrase);
}

bool tls_reload(struct tls *tls, struct err *err)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    bool ok = false;

    ERR_clear_error();
    if (!context) {
        fail(err, "OpenSSL");
        goto out;
    }
    set_rules(context);
    if (SSL_CTX_use_certificate_chain_file(context, tls->certificate_path) != 1) {
        fail(err, tls->certificate_path);
        goto out;
    }
    if (SSL_CTX_use_PrivateKey_file(context, tls->key_path, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context) != 1) {
        fail(err, tls->key_path);
        goto out;
    }
    SSL_CTX_free(tls->context);
    tls->context = context;
    ok = true;
out:
    if (!ok)
        SSL_CTX_free(context);
    return ok;
}

struct tls *tls_new(const char *certificate_path, const char *key_path, struct err *err)
{
    struct tls *tls = mem_alloc_zero(1, sizeof *tls);

    tls->certificate_path = mem_copy_text(certificate_path);
    tls->key_path = mem_copy_text(key_path);
    if (tls_reload(tls, err))
        return tls;
    tls_free(tls);
    return NULL;
}

void tls_free(struct tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->context);
    free(tls->certificate_path);
    free(tls->key_path);
    free(tls);
}

/* One connection. */

struct tls_wire *tls_wire_new(struct tls *tls, int fd)
{
    struct tls_wire *wire = mem_alloc_zero(1, sizeof *wire);

    wire->ssl = SSL_new(tls->context);
    wire->is_broken = !wire->ssl || SSL_set_fd(wire->ssl, fd) != 1;
    if (!wire->is_broken)
        SSL_set_accept_state(wire->ssl);
    return wire;
}

static int failure(struct tls_wire *wire, int result)
{
    switch (SSL_get_error(wire->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        return TLS_WAIT_READ;
    case SSL_ERROR_WANT_WRITE:
        return TLS_WAIT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        wire->is_broken = true;
        return ERR_GET_REASON(ERR_peek_error()) == SSL_R_HTTP_REQUEST ? TLS_PLAIN_HTTP : TLS_BROKEN;
    }
}

int tls_wire_handshake(struct tls_wire *wire)
{
    int result;

    if (wire->is_broken)
        return TLS_BROKEN;
    ERR_clear_error();
    result = SSL_do_handshake(wire->ssl);
    return result == 1 ? 1 : failure(wire, result);
}

ssize_t tls_wire_read(struct tls_wire *wire, void *at, size_t bytes)
{
    size_t got = 0, more;

    ERR_clear_error();
    /* OpenSSL gives one record of 16 KiB a call. What ends the row of records is told again at the next call. */
    while (got < bytes && SSL_read_ex(wire->ssl, (char *)at + got, bytes - got, &more) == 1)
        got += more;
    return got > 0 ? (ssize_t)got : failure(wire, 0);
}

ssize_t tls_wire_write(struct tls_wire *wire, const void *at, size_t bytes)
{
    size_t sent;

    ERR_clear_error();
    return SSL_write_ex(wire->ssl, at, bytes, &sent) == 1 ? (ssize_t)sent : failure(wire, 0);
}

bool tls_wire_has_pending(const struct tls_wire *wire)
{
    return SSL_has_pending(wire->ssl) == 1;
}

void tls_wire_end(struct tls_wire *wire)
{
    ERR_clear_error();
    if (!wire->is_broken && SSL_is_init_finished(wire->ssl))
        SSL_shutdown(wire->ssl);
}

void tls_wire_free(struct tls_wire *wire)
{
    if (!wire)
        return;
    SSL_free(wire->ssl);
    free(wire);
}
