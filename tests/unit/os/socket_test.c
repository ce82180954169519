#include "test.h"

#include "os/socket.h"

#include <netinet/in.h>
#include <sys/socket.h>

static int connect_to(int port)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&place, sizeof place), 0);
    return fd;
}

static void a_listening_socket_gives_connections_with_their_addresses(void **state)
{
    char address[SOCKET_ADDRESS_BYTES], byte = 0;
    int listening, client, accepted;
    struct err err = {0};

    listening = socket_listen_tcp("127.0.0.1", 0, &err);
    assert_ok(listening >= 0, err);
    assert_int_equal(socket_accept(listening, address, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    client = connect_to(socket_port(listening));
    accepted = socket_accept(listening, address, &err);
    assert_ok(accepted >= 0, err);
    assert_string_equal(address, "127.0.0.1");
    assert_int_equal(send(accepted, "x", 1, 0), 1);
    assert_int_equal(recv(client, &byte, 1, 0), 1);
    assert_int_equal(byte, 'x');
    close(accepted);
    close(client);
    close(listening);
}

static void wrong_places_are_refused(void **state)
{
    struct err err;
    int first, second;

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
        cmocka_unit_test(a_listening_socket_gives_connections_with_their_addresses),
        cmocka_unit_test(wrong_places_are_refused),
        cmocka_unit_test(limits_count_ipv4_addresses_and_ipv6_networks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
