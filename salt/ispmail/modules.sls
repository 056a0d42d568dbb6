# The minion has the modules of this version. A named SLS does not sync modules by
# itself; this does, once for each version, and is free after that.
{%- set version = '0.1.0' %}
{%- if 'postfix_map.version' not in salt or salt['postfix_map.version']() != version %}

The modules for Postfix maps are synced:
  saltutil.sync_all:
    - refresh: True
    - reload_modules: True
    - order: 1
{%- endif %}
