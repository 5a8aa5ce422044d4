/* Fails what a process writes below a directory, as a broken disk does, or kills the process in the middle of it.
 * BROKEN_DISK names a file with a number, which is mapped, so that a test breaks and mends the disk of a running
 * process by writing to it: 1 fails writes, 2 fails syncs, each with EIO. BROKEN_DISK_BELOW names the directory.
 * BROKEN_DISK_DIES_AT is how many changes below it are begun before the process is killed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITES = 1, SYNCS = 2 };

static const volatile int64_t *broken;
static const char *below;
static long dies_at;
static atomic_long changes;

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("BROKEN_DISK");
    const char *number = getenv("BROKEN_DISK_DIES_AT");
    below = getenv("BROKEN_DISK_BELOW");
    if (number != NULL) dies_at = atol(number);
    if (file == NULL) return;
    int descriptor = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC, 0);
    if (descriptor < 0) return;
    void *mapped = mmap(NULL, sizeof *broken, PROT_READ, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped != MAP_FAILED) broken = mapped;
}

static int path_is_below(const char *path) {
    return below != NULL && path != NULL && strncmp(path, below, strlen(below)) == 0;
}

static int is_below(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return path_is_below(path);
}

static void change(void) {
    if (dies_at > 0 && atomic_fetch_add(&changes, 1) + 1 == dies_at) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

/* Whether a change to an open file fails. */
static int fails(int descriptor, int64_t kind) {
    if (dies_at <= 0 && (broken == NULL || *broken != kind)) return 0;
    if (!is_below(descriptor)) return 0;
    change();
    if (broken == NULL || *broken != kind) return 0;
    errno = EIO;
    return 1;
}

ssize_t write(int descriptor, const void *bytes, size_t length) {
    if (fails(descriptor, WRITES)) return -1;
    return syscall(SYS_write, descriptor, bytes, length);
}

ssize_t writev(int descriptor, const struct iovec *pieces, int count) {
    if (fails(descriptor, WRITES)) return -1;
    return syscall(SYS_writev, descriptor, pieces, count);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off64_t at) {
    if (fails(descriptor, WRITES)) return -1;
    return syscall(SYS_pwrite64, descriptor, bytes, length, at);
}

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t at) {
    return pwrite64(descriptor, bytes, length, at);
}

int fsync(int descriptor) {
    if (fails(descriptor, SYNCS)) return -1;
    return (int)syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor) {
    if (fails(descriptor, SYNCS)) return -1;
    return (int)syscall(SYS_fdatasync, descriptor);
}

static int opened(int directory, const char *path, int flags, va_list rest) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t);
    if ((flags & O_CREAT) && path_is_below(path)) change();
    return (int)syscall(SYS_openat, directory, path, flags, mode);
}

#define OPENS(name, parameters, directory)        \
    int name parameters {                         \
        va_list rest;                             \
        va_start(rest, flags);                    \
        int result = opened(directory, path, flags, rest); \
        va_end(rest);                             \
        return result;                            \
    }

OPENS(open, (const char *path, int flags, ...), AT_FDCWD)
OPENS(open64, (const char *path, int flags, ...), AT_FDCWD)
OPENS(openat, (int directory, const char *path, int flags, ...), directory)
OPENS(openat64, (int directory, const char *path, int flags, ...), directory)

int mkdir(const char *path, mode_t mode) {
    if (path_is_below(path)) change();
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int rename(const char *from, const char *to) {
    if (path_is_below(to)) change();
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int link(const char *from, const char *to) {
    if (path_is_below(to)) change();
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    if (path_is_below(to)) change();
    return (int)syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
}

int unlink(const char *path) {
    if (path_is_below(path)) change();
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
