# After the canary the mail servers of a site go one at a time.
ispmail:
  rotation:
    batch: 1
