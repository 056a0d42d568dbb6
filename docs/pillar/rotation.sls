# After the canary, the mail servers of a site change one at a time.
ispmail:
  rotation:
    batch: 1
