"""Reading a partner's files: strictly, fast where they are plain, and only what is new where they were read before."""
