/* cli/certificates.h - the server's certificate: loaded at the start, again at every SIGHUP. */
#pragma once

#include "http/loop.h"
#include "http/tls.h"

struct certificates;

/* Both paths NULL: *certificates is NULL, and SIGHUP keeps its meaning. At most one at a time. */
bool certificates_open(struct certificates **certificates, struct http_loop *loop, const char *certificate_path,
                       const char *key_path, struct err *err);
struct tls *certificates_tls(const struct certificates *certificates); /* NULL: none */
void certificates_close(struct certificates *certificates);            /* NULL is fine */
