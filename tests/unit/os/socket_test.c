#include "test.h"

#include "os/socket.h"

#include <string.h>
#include <sys/socket.h>

static void unix_sockets_connect_and_replace_stale_files(void **state)
{
    char path[64], address[SOCKET_ADDRESS_BYTES], byte = 0;
    int listening, client, accepted;
    struct stat info;
    struct err err;

    snprintf(path, sizeof path, "socket_test_%d.sock", (int)getpid());
    assert_int_equal(socket_connect_unix(path, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    for (int round = 0; round < 2; round++) { /* the second finds the first one's file */
        listening = socket_listen_unix(path, &err);
        assert_ok(listening >= 0, err);
        assert_int_equal(stat(path, &info), 0);
        assert_int_equal(info.st_mode & 0777, 0600);
        assert_int_equal(socket_accept(listening, address, &err), -1);
        assert_int_equal(err.code, ERR_NOT_FOUND);
        client = socket_connect_unix(path, &err);
        assert_ok(client >= 0, err);
        accepted = socket_accept(listening, address, &err);
        assert_ok(accepted >= 0, err);
        assert_string_equal(address, "unix");
        assert_int_equal(send(accepted, "x", 1, 0), 1);
        assert_int_equal(recv(client, &byte, 1, 0), 1);
        assert_int_equal(byte, 'x');
        close(accepted);
        close(client);
        close(listening);
    }
    unlink(path);
}

static void wrong_places_are_refused(void **state)
{
    char path[300];
    struct err err;
    int first, second;

    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = 0;
    assert_int_equal(socket_listen_unix(path, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    assert_int_equal(socket_listen_tcp("localhost", 0, &err), -1);
    assert_int_equal(err.code, ERR_INPUT);
    assert_int_equal(socket_listen_tcp("127.0.0.1", 65536, &err), -1);
    assert_int_equal(err.code, ERR_INPUT);
    first = socket_listen_tcp("127.0.0.1", 0, &err);
    assert_ok(first >= 0 && socket_port(first) > 0, err);
    second = socket_listen_tcp("127.0.0.1", socket_port(first), &err);
    assert_int_equal(second, -1);
    assert_int_equal(err.code, ERR_CONFLICT);
    close(first);
}

static void limits_count_ipv4_addresses_and_ipv6_networks(void **state)
{
    static const struct {
        const char *address;
        uint64_t source;
    } cases[] = {
        {"127.0.0.1", 0x7f000001},           {"10.1.2.3", 0x0a010203},
        {"::ffff:10.1.2.3", 0x0a010203},     {"2001:db8:1:2::1", 0x20010db800010002},
        {"2001:db8:1:2:9:8:7:6", 0x20010db800010002}, {"2001:db8:1:3::1", 0x20010db800010003},
        {"unix", 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(socket_source(cases[i].address), cases[i].source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unix_sockets_connect_and_replace_stale_files),
        cmocka_unit_test(wrong_places_are_refused),
        cmocka_unit_test(limits_count_ipv4_addresses_and_ipv6_networks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
