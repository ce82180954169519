#include "os/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(int fd, struct err *err, const char *what, const char *on)
{
    enum err_code code = errno == ENOENT || errno == ECONNREFUSED ? ERR_NOT_FOUND
                         : errno == EADDRINUSE                    ? ERR_CONFLICT
                                                                  : ERR_IO;
    err_set(err, code, "cannot %s %s: %s", what, on, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool tcp_address(const char *host, int port, struct sockaddr_storage *address, socklen_t *len)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;

    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *len = sizeof *v4;
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *len = sizeof *v6;
        return true;
    }
    return false;
}

int socket_listen_tcp(const char *host, int port, struct err *err)
{
    struct sockaddr_storage address;
    socklen_t len;
    char place[128];
    int on = 1, fd;

    snprintf(place, sizeof place, "on %s port %d", host, port);
    if (port < 0 || port > 65535 || !tcp_address(host, port, &address, &len)) {
        err_set(err, ERR_INPUT, "cannot listen %s: give an IPv4 or IPv6 address and a port up to 65535", place);
        return -1;
    }
    fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(fd, err, "listen", place);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, len) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    if (errno != EADDRINUSE)
        return fail(fd, err, "listen", place);
    err_set(err, ERR_CONFLICT, "cannot listen %s: another program does; give another port", place);
    close(fd);
    return -1;
}

int socket_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;

    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        return 0;
    if (address.ss_family == AF_INET)
        return ntohs(((struct sockaddr_in *)&address)->sin_port);
    return address.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&address)->sin6_port) : 0;
}

static void address_text(const struct sockaddr_storage *address, char text[SOCKET_ADDRESS_BYTES])
{
    snprintf(text, SOCKET_ADDRESS_BYTES, "unix");
    if (address->ss_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, SOCKET_ADDRESS_BYTES);
    else if (address->ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text, SOCKET_ADDRESS_BYTES);
}

uint64_t socket_source(const char *address)
{
    unsigned char bytes[16] = {0};
    bool is_v6 = inet_pton(AF_INET6, address, bytes) == 1, is_v4;
    uint64_t source = 0;

    is_v4 = is_v6 ? IN6_IS_ADDR_V4MAPPED((struct in6_addr *)bytes) : inet_pton(AF_INET, address, bytes + 12) == 1;
    for (int i = is_v4 ? 12 : 0; i < (is_v4 ? 16 : 8); i++)
        source = source << 8 | bytes[i];
    return source;
}

int socket_accept(int fd, char address[SOCKET_ADDRESS_BYTES], struct err *err)
{
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof peer;
    int on = 1, unsent_bytes_max = 256 << 10, accepted;

    /* A connection that was reset while it waited is none; try the next. */
    do
        accepted = accept4(fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (accepted < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (accepted < 0) {
        enum err_code code = errno == EAGAIN || errno == EWOULDBLOCK                                     ? ERR_NOT_FOUND
                             : errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM ? ERR_LIMIT
                                                                                                         : ERR_IO;
        err_set(err, code, "cannot accept a connection: %s", strerror(errno));
        return -1;
    }
    if (peer.ss_family != AF_UNIX) {
        setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        /* A client that reads slowly would otherwise pin megabytes of the system's memory for sockets, and a few
         * hundred of them all of it. */
        setsockopt(accepted, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_bytes_max, sizeof unsent_bytes_max);
    }
    address_text(&peer, address);
    return accepted;
}

bool socket_pair(int ends[2], struct err *err)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0)
        return true;
    fail(-1, err, "open", "a socket pair");
    return false;
}

void socket_end_writing(int fd)
{
    shutdown(fd, SHUT_WR);
}
