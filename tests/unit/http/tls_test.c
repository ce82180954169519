/* The handshake on the server's clock, and certificates; tests/api/test_tls.py has clients of other makes. */
#include "site.h"

#include "http/tls.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>

static char folder[] = "/tmp/attune-tls-XXXXXX";
static char certificate_path[64], key_path[64];

static int make_certificate(void **state)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    FILE *file;

    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(folder))
        return 1;
    snprintf(certificate_path, sizeof certificate_path, "%s/cert.pem", folder);
    snprintf(key_path, sizeof key_path, "%s/key.pem", folder);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_sign(certificate, key, EVP_sha256());
    file = fopen(certificate_path, "w");
    PEM_write_X509(file, certificate);
    fclose(file);
    file = fopen(key_path, "w");
    PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL);
    fclose(file);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return 0;
}

static int remove_certificate(void **state)
{
    return unlink(certificate_path) || unlink(key_path) || rmdir(folder);
}

static struct tls *open_secure(struct site *site, const struct http_config *more)
{
    struct http_config config = more ? *more : (struct http_config){0};
    struct err err;

    config.tls = tls_new(certificate_path, key_path, &err);
    assert_ok(config.tls, err);
    site_open(site, &config);
    return config.tls;
}

static void close_secure(struct site *site, struct tls *tls)
{
    site_close(site);
    tls_free(tls);
}

struct client {
    SSL_CTX *context;
    SSL *ssl;
    int fd;
};

static struct client client_open(struct site *site)
{
    struct client client = {SSL_CTX_new(TLS_client_method()), NULL, site_connect(site)};

    client.ssl = SSL_new(client.context);
    SSL_set_fd(client.ssl, client.fd);
    site_settle(site);
    return client;
}

static bool client_shake(struct site *site, struct client *client)
{
    for (int i = 0; i < 50; i++) {
        if (SSL_connect(client->ssl) == 1)
            return true;
        site_settle(site);
    }
    return false;
}

/* What arrives until the server says no more. */
static void client_receive(struct site *site, struct client *client, struct strbuf *out)
{
    char piece[16384];
    size_t got;

    for (int quiet = 0; quiet < 20; quiet++) {
        site_settle(site);
        while (SSL_read_ex(client->ssl, piece, sizeof piece, &got) == 1) {
            strbuf_add(out, piece, got);
            quiet = 0;
        }
    }
}

static void client_close(struct client *client)
{
    SSL_free(client->ssl);
    SSL_CTX_free(client->context);
    close(client->fd);
}

static void a_handshake_has_the_time_of_a_head(void **state)
{
    struct site site;
    struct tls *tls = open_secure(&site, NULL);
    int fd = site_connect(&site);

    site_settle(&site);
    for (int i = 0; i < 9; i++) { /* the beginning of a ClientHello, a byte a second */
        site_send(&site, fd, (struct str){&"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[i], 1});
        site_move_clock(&site, 1000);
    }
    assert_int_equal(http_server_connection_count(site.server), 1);
    site_move_clock(&site, 1000);
    assert_int_equal(http_server_connection_count(site.server), 0);
    assert_int_equal(site.dones, 0);
    close(fd);
    close_secure(&site, tls);
}

static void requests_and_large_answers_pass_through(void **state)
{
    static char block[1 << 20];
    struct strbuf got = {0};
    struct site site;
    struct tls *tls = open_secure(&site, NULL);
    struct client client = client_open(&site);

    memset(block, 'b', sizeof block);
    assert_true(client_shake(&site, &client));
    assert_int_equal(SSL_write(client.ssl, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", 33), 33);
    site_settle(&site);
    assert_non_null(site.stream);
    for (int i = 0; i < 3; i++) { /* more than a record and more than the kernel takes at once */
        assert_true(http_stream_write(site.stream, (struct str){block, sizeof block}));
        client_receive(&site, &client, &got);
    }
    http_stream_end(site.stream);
    client_receive(&site, &client, &got);
    assert_int_equal(site.completes, 1);
    assert_true(got.len > 3 * sizeof block && str_ends(strbuf_view(&got), STR("\r\n0\r\n\r\n")));
    site_move_clock(&site, 29000);
    assert_int_equal(http_server_connection_count(site.server), 1);
    site_move_clock(&site, 2000); /* idle as any other */
    assert_int_equal(http_server_connection_count(site.server), 0);
    client_close(&client);
    close_secure(&site, tls);
    strbuf_deinit(&got);
}

static void a_client_that_does_not_read_is_cut(void **state)
{
    static char block[1 << 20];
    struct site site;
    struct tls *tls = open_secure(&site, NULL);
    struct client client = client_open(&site);

    assert_true(client_shake(&site, &client));
    assert_int_equal(SSL_write(client.ssl, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", 33), 33);
    site_settle(&site);
    while (http_stream_pending(site.stream) < 4096) {
        assert_true(http_stream_write(site.stream, (struct str){block, sizeof block}));
        site_settle(&site);
    }
    site_move_clock(&site, 14000);
    assert_int_equal(site.closes, 0);
    site_move_clock(&site, 2000);
    assert_int_equal(site.closes, 1);
    client_close(&client);
    close_secure(&site, tls);
}

static void one_too_many_hears_503_behind_its_handshake(void **state)
{
    const struct http_config config = {.connections_max = 1};
    struct strbuf got = {0};
    struct site site;
    struct tls *tls = open_secure(&site, &config);
    struct client first = client_open(&site), second = client_open(&site);

    assert_true(client_shake(&site, &second));
    client_receive(&site, &second, &got);
    assert_true(str_starts(strbuf_view(&got), STR("HTTP/1.1 503")));
    assert_int_equal(SSL_get_shutdown(second.ssl), SSL_RECEIVED_SHUTDOWN); /* the end is told, not cut */
    client_close(&first);
    client_close(&second);
    close_secure(&site, tls);
    strbuf_deinit(&got);
}

static void wrong_files_are_named(void **state)
{
    struct tls *tls;
    struct err err = {0};

    assert_null(tls_new("/nowhere/cert.pem", key_path, &err));
    assert_non_null(strstr(err.text, "/nowhere/cert.pem"));
    assert_null(tls_new(certificate_path, certificate_path, &err));
    assert_non_null(strstr(err.text, certificate_path));
    tls = tls_new(certificate_path, key_path, &err);
    assert_ok(tls, err);
    assert_true(tls_reload(tls, &err));
    tls_free(tls);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_handshake_has_the_time_of_a_head),
        cmocka_unit_test(requests_and_large_answers_pass_through),
        cmocka_unit_test(a_client_that_does_not_read_is_cut),
        cmocka_unit_test(one_too_many_hears_503_behind_its_handshake),
        cmocka_unit_test(wrong_files_are_named),
    };

    return cmocka_run_group_tests(tests, make_certificate, remove_certificate);
}
