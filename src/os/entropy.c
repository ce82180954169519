#include "os/entropy.h"
#include "base/err.h"
#include "base/hash.h"

#include <sys/random.h>

void entropy_fill(void *at, size_t bytes)
{
    unsigned char *p = at;

    while (bytes > 0) {
        ssize_t got = getrandom(p, bytes < 256 ? bytes : 256, 0);
        if (got <= 0)
            die("the kernel gives no random bytes");
        p += got;
        bytes -= (size_t)got;
    }
}

void entropy_hex(char *out, size_t bytes)
{
    unsigned char raw[64];

    ASSERT(bytes <= sizeof raw);
    entropy_fill(raw, bytes);
    hex_encode(raw, bytes, out);
}
