# Install Postfix, a package for each table type in use, and PyMySQL for the Python that runs Salt. A server whose maps
# are all null gets no Postfix: only other programs log in there.
{%- set ispmail = salt['pillar.get']('ispmail') or {} %}
{%- if ispmail is mapping and ispmail.get('packages', True) %}
{%- set types = ['mysql'] %}
{%- set given = ispmail.get('maps') %}
{%- set maps = given if given is mapping else {} %}
{%- set wanted = [] %}
{%- for name in ['virtual_mailbox_domains', 'virtual_alias_maps', 'virtual_mailbox_maps'] + (maps | list) if maps.get(name, {}) is not none %}
{%- do wanted.append(name) %}
{%- endfor %}
{%- for map in maps.values() if map is mapping and map.get('type') in ('mysql', 'pgsql', 'sqlite') %}
{%- do types.append(map['type']) %}
{%- endfor %}
{%- set system_python = grains['pythonexecutable'].startswith('/usr/bin/') %}
{%- set packages = [] %}
{%- if wanted or ispmail.get('instances') %}
{%- do packages.append('postfix') %}
{%- for type in types | unique %}
{%- do packages.append('postfix-' ~ type) %}
{%- endfor %}
{%- endif %}
{%- if system_python %}
{%- do packages.append('python3-pymysql') %}
{%- endif %}
{%- if packages %}

Postfix and its table types are installed:
  pkg.installed:
    - pkgs: {{ packages | json }}
    - reload_modules: {{ system_python | json }}
    - require_in:
      - sls: ispmail.maps
{%- endif %}
{%- if not system_python %}
{%- set found = [] %}
{%- for path in grains['pythonpath'] if salt['file.directory_exists'](path ~ '/pymysql') %}
{%- do found.append(path) %}
{%- endfor %}
{%- if not found %}

PyMySQL is installed for Salt's Python:
  pip.installed:
    - name: PyMySQL>=1.1,<1.3
    - bin_env: {{ grains['pythonexecutable'] | json }}
    - reload_modules: True
{%- endif %}
{%- endif %}
{%- endif %}
