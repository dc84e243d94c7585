/* Delays what goes to a disk by SLOW_MS milliseconds: fsync and fdatasync; with SLOW_WRITES also writes to files.
   Loaded by LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static void wait_for_disk(void) {
    const char *ms = getenv("SLOW_MS");
    if (ms) usleep(1000 * atoi(ms));
}

static void wait_for_write(int fd) {
    struct stat found;
    if (getenv("SLOW_WRITES") && fstat(fd, &found) == 0 && S_ISREG(found.st_mode)) wait_for_disk();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd) { wait_for_disk(); return REAL(fsync)(fd); }
int fdatasync(int fd) { wait_for_disk(); return REAL(fdatasync)(fd); }
ssize_t write(int fd, const void *data, size_t size) { wait_for_write(fd); return REAL(write)(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { wait_for_write(fd); return REAL(writev)(fd, parts, count); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { wait_for_write(fd); return REAL(pwrite)(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { wait_for_write(fd); return REAL(pwrite64)(fd, data, size, at); }
