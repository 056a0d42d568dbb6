base:
  '*':
    - ispmail
