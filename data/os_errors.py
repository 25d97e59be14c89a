"""What the operating system refuses, told with what to do about it."""

import errno

_NO_LOCKS = "choose a folder on a file system with locks (Lustre: mounted with -o flock)"
_REMEDIES = {
    errno.ENOSPC: "free disk space, then run the same command again",
    errno.EDQUOT: "free disk space or raise the quota, then run the same command again",
    errno.EROFS: "make it writable, or choose another folder",
    errno.EACCES: "make it accessible, or choose another folder",
    errno.ENOLCK: _NO_LOCKS,
    errno.ENOSYS: _NO_LOCKS,
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the same command again",
}


def explain(error: OSError) -> str:
    """Return what was refused, where, and the remedy, on one line.

    >>> explain(OSError(errno.ENOSPC, "No space left on device", "/data/a"))
    '/data/a: No space left on device; free disk space, then run the same command again'
    """
    place = f"{error.filename}: " if error.filename else ""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{place}{error.strerror or error}" + (f"; {remedy}" if remedy else "")
