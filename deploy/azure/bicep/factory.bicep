// Data Factory with the pipeline that lands a day's sales as Parquet: landing/sales/date=YYYY-MM-DD/sales.parquet.
// A day that runs again writes the same file. The source is any that Data Factory reads; here one by ODBC, whose
// connection string you put into the factory (or its self-hosted runtime).
param name string
param location string
param principalId string
param storageName string
param landing string
param privateEndpoints bool

var factoryContributor = '673868aa-7521-48a0-acc6-0f60742d39f5' // Data Factory Contributor
var dataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor

resource factory 'Microsoft.DataFactory/factories@2018-06-01' = {
  name: '${name}-factory-${take(uniqueString(resourceGroup().id), 8)}'
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    publicNetworkAccess: privateEndpoints ? 'Disabled' : 'Enabled'
  }
}

resource managedNetwork 'Microsoft.DataFactory/factories/managedVirtualNetworks@2018-06-01' = if (privateEndpoints) {
  parent: factory
  name: 'default'
  properties: {}
}

resource toLake 'Microsoft.DataFactory/factories/linkedservices@2018-06-01' = {
  parent: factory
  name: 'lake'
  properties: {
    type: 'AzureBlobFS'
    typeProperties: {
      url: 'https://${storageName}.dfs.${environment().suffixes.storage}'
    }
  }
}

resource toSource 'Microsoft.DataFactory/factories/linkedservices@2018-06-01' = {
  parent: factory
  name: 'source'
  properties: {
    type: 'Odbc'
    typeProperties: {
      connectionString: 'Driver={YOUR DRIVER};Server=YOUR SERVER'
      authenticationType: 'Anonymous'
    }
  }
}

resource sales 'Microsoft.DataFactory/factories/datasets@2018-06-01' = {
  parent: factory
  name: 'sales'
  properties: {
    type: 'OdbcTable'
    linkedServiceName: {
      referenceName: toSource.name
      type: 'LinkedServiceReference'
    }
    typeProperties: {}
  }
}

resource landed 'Microsoft.DataFactory/factories/datasets@2018-06-01' = {
  parent: factory
  name: 'landed_sales'
  properties: {
    type: 'Parquet'
    linkedServiceName: {
      referenceName: toLake.name
      type: 'LinkedServiceReference'
    }
    parameters: {
      day: {
        type: 'string'
      }
    }
    typeProperties: {
      location: {
        type: 'AzureBlobFSLocation'
        fileSystem: landing
        folderPath: {
          value: '@concat(\'sales/date=\', dataset().day)'
          type: 'Expression'
        }
        fileName: 'sales.parquet'
      }
      compressionCodec: 'snappy'
    }
  }
}

resource pipeline 'Microsoft.DataFactory/factories/pipelines@2018-06-01' = {
  parent: factory
  name: 'ingest_sales'
  properties: {
    parameters: {
      day: {
        type: 'string'
      }
    }
    activities: [
      {
        name: 'copy'
        type: 'Copy'
        inputs: [
          {
            referenceName: sales.name
            type: 'DatasetReference'
          }
        ]
        outputs: [
          {
            referenceName: landed.name
            type: 'DatasetReference'
            parameters: {
              day: '@pipeline().parameters.day'
            }
          }
        ]
        typeProperties: {
          source: {
            type: 'OdbcSource'
            query: {
              value: '@concat(\'SELECT store, item, sales FROM sales WHERE date = \'\'\', pipeline().parameters.day, \'\'\'\')'
              type: 'Expression'
            }
          }
          sink: {
            type: 'ParquetSink'
            storeSettings: {
              type: 'AzureBlobFSWriteSettings'
            }
            formatSettings: {
              type: 'ParquetWriteSettings'
            }
          }
        }
      }
    ]
  }
}

resource starts 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: factory
  name: guid(factory.id, principalId, factoryContributor)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', factoryContributor)
  }
}

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: account
  name: 'default'
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = {
  parent: blobs
  name: landing
}

resource lands 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: container
  name: guid(container.id, factory.id, dataContributor)
  properties: {
    principalId: factory.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataContributor)
  }
}
