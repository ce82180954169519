/* os/socket.h - listening and connected sockets: TCP for the API, pairs between our own processes.
 * All descriptors are close-on-exec and non-blocking unless said otherwise; -1 with err set on failure. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { SOCKET_ADDRESS_BYTES = 64 }; /* room for any address as text */

/* Whom limits by address count: an IPv4 address, mapped ones too, or the first 64 bits of an IPv6 one, because one
 * customer has all addresses below them. 0 for what is no address. */
uint64_t socket_source(const char *address);

/* host: an IPv4 or IPv6 address, no name. port 0: any free one. */
int socket_listen_tcp(const char *host, int port, struct err *err);
int socket_port(int fd); /* the local port of a TCP socket; 0 when it has none */
/* Next connection of a listening socket, with Nagle's delay off and at most 256 KiB queued in the kernel, and the
 * peer's address. -1 with err ERR_NOT_FOUND when none waits, ERR_LIMIT when this process has no descriptor left. */
int socket_accept(int fd, char address[SOCKET_ADDRESS_BYTES], struct err *err);

/* The other end reads an end; what it says still arrives. */
void socket_end_writing(int fd);
/* Two ends of one stream; close-on-exec, blocking. */
bool socket_pair(int ends[2], struct err *err);
