# Sync the modules and the library whenever one of their files has changed; Salt itself syncs them only in a highstate.
# The check costs nothing if nothing changed. bin/stamp writes the part behind the +.
{%- set wanted = '0.2.0+a425983357b9' %}
{%- if 'ispmail.version' not in salt and 'cp.list_master' in salt
    and '_modules/ispmail.py' not in salt['cp.list_master'](saltenv) + salt['cp.list_master']('base') %}

The modules for Postfix maps are served:
  test.fail_without_changes:
    - comment: >-
        The file server has the formula, but not its modules: no salt://_modules/ispmail.py. In a clone salt/ has links
        to _modules, _states, _beacons and _utils. If they are lost, or fileserver_followsymlinks is False, or this is a
        Python package's folder, name a second folder in file_roots, the one that has _modules, and hide its .git
        (file_ignore_regex): see docs/setup.md.
    - failhard: True
    - order: 1
{%- elif 'ispmail.version' not in salt or salt['ispmail.version']() != wanted %}

{#- Salt deletes what the environments that it syncs do not have. Without any named, they are those of the top file; of
    those named, the last one's files win. (The state saltutil.sync_all takes none.) #}
The modules for Postfix maps are synced:
  module.run:
    - saltutil.sync_all:
      {%- if saltenv != 'base' %}
      - saltenv: {{ ['base', saltenv] | json }}
      {%- endif %}
      - refresh: True
    - reload_modules: True
    - order: 1
{%- endif %}
